"""What is in a guest, file by file: a directory, or the root file system of an image."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
from pathlib import Path

_ROW = re.compile(r"/(\d+)/(\d+)/(\d+)/(\d+)/([^/]+)/(\d*)/")
"""A line of debugfs's ls -p: inode, mode, owner, group, name, size."""


def of_directory(root: Path, *below: str) -> dict[str, str]:
    """Mode, owner and content of everything at and below ``below``, by its path in ``root``."""
    found = {}
    for path in _paths(root, below):
        status = path.lstat()
        owner = f"{status.st_uid}:{status.st_gid}"
        found["/" + str(path.relative_to(root))] = _said(path, status.st_mode, owner)
    return found


def of_image(image: Path, scratch: Path, *below: str) -> dict[str, str]:
    """The same of the last partition of ``image``, by e2fsprogs' own reader.

    ``scratch`` is made and holds the files' content when this is done.
    """
    place = f"{image}?offset={_offset(image)}"
    scratch.mkdir()
    for top in below:
        parent = scratch / top.lstrip("/").rpartition("/")[0]
        parent.mkdir(parents=True, exist_ok=True)
        _debugfs(place, f'rdump "{top}" "{parent}"\n')
    paths = {"/" + str(p.relative_to(scratch)): p for p in _paths(scratch, below)}
    directories = {p.rpartition("/")[0] or "/" for p in paths}
    # What debugfs copies out loses setuid and setgid to the change of its owner.
    listed = _debugfs(place, "".join(f'ls -p "{d}"\n' for d in sorted(directories)))
    owners: dict[str, tuple[int, str]] = {}
    here = ""
    for line in listed.splitlines():
        if match := re.fullmatch(r'debugfs:\s+ls -p "(.*)"', line):
            here = match[1].rstrip("/")
        elif match := _ROW.fullmatch(line):
            owners[f"{here}/{match[5]}"] = (int(match[2], 8), f"{match[3]}:{match[4]}")
    return {name: _said(path, *owners[name]) for name, path in paths.items()}


def _paths(root: Path, below: tuple[str, ...]) -> list[Path]:
    tops = [root / top.lstrip("/") for top in below]
    there = [top for top in tops if top.is_symlink() or top.exists()]
    return [path for top in there for path in (top, *top.rglob("*"))]


def _said(path: Path, mode: int, owner: str) -> str:
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()} of {owner}"
    what = f"{stat.filemode(mode)} {owner}"
    if not stat.S_ISREG(mode):
        return what
    return f"{what} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _offset(image: Path) -> int:
    table = subprocess.run(["sfdisk", "--json", image], capture_output=True, check=True).stdout
    return int(json.loads(table)["partitiontable"]["partitions"][-1]["start"]) * 512


def _debugfs(place: str, commands: str) -> str:
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-f", "-", place],
        input=commands.encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()
