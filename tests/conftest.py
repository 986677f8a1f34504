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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one at the end.

    Needs --no-loadscope-reorder, or xdist begins with the files that have most tests.
    """

    def rank(item: pytest.Item) -> int:
        if item.path.name == "test_proof_hvm.py":
            return 0
        return 1 if item.get_closest_marker("xen") else 2 if item.get_closest_marker("real") else 3

    ranks: dict[str, int] = {}
    for item in items:
        name = str(item.path)
        ranks[name] = min(rank(item), ranks.get(name, 3))
    items.sort(key=lambda item: ranks[str(item.path)])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the store that the workers shared; the process that started them does it."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and not hasattr(session.config, "workerinput"):
        shutil.rmtree(factory.getbasetemp() / CACHE_NAME, ignore_errors=True)
