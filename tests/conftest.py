"""Puts ``oracles`` on pytest's import path and frees property tests from the clock.

A machine that is busy with real builds must not fail a test by being slow.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "imagekit", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("imagekit")
