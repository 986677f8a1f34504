"""Programs of Debian packages that must not be installed beside those of this host.

NetworkManager and ifupdown would take its network over; unpacked they only read what they are
given.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def packages(directory: Path, *names: str) -> Path:
    """A directory with the files of those packages, fetched by apt from the host's own mirror."""
    done = subprocess.run(
        ["apt-get", "download", "-q", *names], cwd=directory, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"missing: apt has no {', '.join(names)}: {done.stderr.strip()[-200:]}")
    root = directory / "root"
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return root


def environment(root: Path) -> dict[str, str]:
    """The environment in which a program of ``root`` finds its libraries."""
    libraries = ":".join(str(root / part) for part in LIBRARIES)
    return {"LD_LIBRARY_PATH": libraries, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
