"""A block device for tests that write to one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def loop_device(backing: Path, size: int) -> Iterator[Path]:
    """A loop device of ``size`` bytes with a new, empty file behind it, which goes with it."""
    with backing.open("xb") as stream:
        stream.truncate(size)
    argv = ["/sbin/losetup", "--find", "--show", str(backing)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        backing.unlink()
        pytest.skip(f"missing: a loop device that may be attached ({done.stderr.strip()})")
    try:
        yield Path(done.stdout.strip())
    finally:
        subprocess.run(["/sbin/losetup", "-d", done.stdout.strip()], check=True)
        backing.unlink()
