"""What is in a guest, file by file: a directory, or the root file system of an image."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
from pathlib import Path


def of_directory(root: Path, *below: str) -> dict[str, str]:
    """Type, mode, owner and content of everything at and below ``below``, by its path in ``root``.

    Of links only what they say, as debugfs gives them no owner.
    """
    found = {}
    for top in below:
        place = root / top.lstrip("/")
        for path in (place, *place.rglob("*")) if place.exists() else ():
            found["/" + str(path.relative_to(root))] = _said(path)
    return found


def _said(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link to {path.readlink()}"
    what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if not stat.S_ISREG(status.st_mode):
        return what
    return f"{what} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def unpacked(image: Path, scratch: Path, *below: str) -> Path:
    """The last partition's files at and below ``below`` (directories), by e2fsprogs' own reader.

    Needs root, for the owners.
    """
    table = subprocess.run(["sfdisk", "--json", image], capture_output=True, check=True).stdout
    offset = json.loads(table)["partitiontable"]["partitions"][-1]["start"] * 512
    scratch.mkdir()
    for top in below:
        parent = scratch / top.lstrip("/").rpartition("/")[0]
        parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["/usr/sbin/debugfs", "-R", f"rdump {top} {parent}", f"{image}?offset={offset}"],
            capture_output=True,
            check=True,
        )
    return scratch
