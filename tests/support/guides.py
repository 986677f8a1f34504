"""Follows a guide of CONTRIBUTING.md word for word, in a copy of the repository.

A code block of Python belongs to the last path before it and becomes that file. In a diff block
each added line comes after the line before it, which must be in the file exactly once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oracles.builds import ROOT

_BLOCK = re.compile(r"(?ms)^(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)^(?P=indent)```$")
_PATH = re.compile(r"`([\w./-]+/[\w.-]+\.\w+)`")
COPIED = (
    *("imagekit", "elements", "preseed", "kickstart", "autoinstall", "docs"),
    *("tests/oracles", "tests/support"),
)


@dataclass(frozen=True)
class Step:
    """A code block: ``kind`` python or diff, the ``path`` it is for, its text."""

    kind: str
    path: str
    text: str


def steps(title: str) -> list[Step]:
    """The steps of the guide under the heading ``title``."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(rf"(?ms)^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text)
    found = []
    for match in _BLOCK.finditer(section):
        paths = _PATH.findall(section[: match.start()])
        if match["kind"] in ("python", "diff"):
            found.append(Step(match["kind"], paths[-1], textwrap.dedent(match["text"])))
    return found


def follow(title: str, into: Path) -> list[Path]:
    """Do what the guide ``title`` says in a copy of the repository at ``into``.

    Returns the tests that it has one write.
    """
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, into / name, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copyfile(ROOT / name, into / name)
    tests = []
    for step in steps(title):
        path = into / step.path
        if step.kind == "diff":
            path.write_text(_patched(path.read_text(), step))
            continue
        assert not path.exists(), f"{step.path} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)
        if path.name.startswith("test_"):
            tests.append(path)
    return tests


def run_tests(copy: Path, tests: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    """Run ``tests`` in the copy of the repository, with the copy's imagekit.

    Options in the environment are for the run that this one is part of.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)],
        cwd=copy,
        env={**ours, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _patched(text: str, step: Step) -> str:
    lines = text.splitlines()
    place = -1
    for change in step.text.splitlines():
        sign, line = change[:1], change[1:]
        if sign == "+":
            place += 1
            lines.insert(place, line)
        elif line:
            assert lines.count(line) == 1, f"{step.path} has not one line {line!r}"
            place = lines.index(line)
        else:
            place += 1
            assert lines[place] == "", f"{step.path} has {lines[place]!r} for an empty line"
    return "\n".join(lines) + "\n"
