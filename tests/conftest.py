"""Puts ``oracles`` on pytest's import path and frees property tests from the clock.

A machine that is busy with real builds must not fail a test by being slow.
"""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, settings
from oracles.builds import CACHE_NAME

settings.register_profile(
    "imagekit", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("imagekit")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the store that the workers shared; the process that started them does it."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and not hasattr(session.config, "workerinput"):
        shutil.rmtree(factory.getbasetemp() / CACHE_NAME, ignore_errors=True)
