"""A second user on the host, and directories of theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STRANGER = 64321
"""A user id that no account of a host has."""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="missing: root, who alone can give files away"
)


def given_away(path: Path) -> Path:
    """``path`` with the stranger as its owner."""
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return path


def strangers_folder(path: Path) -> Path:
    """A new directory of the stranger's, which others may pass through."""
    path.mkdir(mode=0o755)
    return given_away(path)
