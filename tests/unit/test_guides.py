"""The guides of CONTRIBUTING.md work when they are followed word for word."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.guides import follow, run_tests


@pytest.mark.parametrize("title", ["Add a check", "Add a toolstack"])
def test_what_the_guide_makes_passes_the_tests_that_it_has_one_write(
    tmp_path: Path, title: str
) -> None:
    tests = follow(title, tmp_path)
    assert tests
    done = run_tests(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
