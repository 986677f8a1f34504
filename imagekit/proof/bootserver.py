"""What a netbooting guest needs of the lab: the boot server's files, and pypxeboot in dom0.

The lab's dom0 serves one directory by TFTP and by HTTP at :data:`SERVER`, and its DHCP names
itself as the boot server.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import imagekit
from imagekit.errors import SpecError
from imagekit.netboot import tree

SERVER = "198.18.0.1"
"""dom0's address on xenbr0 (``dom0/init.sh``)."""

PROGRAM = "pypxeboot"
SEARCHED = "/usr/bin"
"""A bootloader without a slash is looked up in Xen's own folder and then in PATH (libxl_exec.c)."""

SHIPS = ("../__init__.py", "../errors.py", "../host", "../pypxeboot")
SOURCES = ("__init__.py", "errors.py", "host/*.py", "pypxeboot/*.py")
MAX_TREE_BYTES = 8 << 30
_MAIN = b"import sys\nfrom imagekit.pypxeboot.program import main\nsys.exit(main())\n"
# Every file of an archive has one date: the same program is the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def program_path(bootloader: str | None) -> str | None:
    """Where dom0 must have pypxeboot for a config with this ``bootloader``; None for another."""
    if bootloader is None or bootloader.rpartition("/")[2] != PROGRAM:
        return None
    return bootloader if bootloader.startswith("/") else f"{SEARCHED}/{PROGRAM}"


def write_program(target: Path) -> None:
    """Write this imagekit's pypxeboot to ``target`` as one executable file (PEP 441)."""
    package = Path(imagekit.__file__).parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for pattern in SOURCES:
            for path in sorted(package.glob(pattern)):
                name = f"imagekit/{path.relative_to(package)}"
                archive.writestr(zipfile.ZipInfo(name, _DATE), path.read_bytes())
        archive.writestr(zipfile.ZipInfo("__main__.py", _DATE), _MAIN)
    target.write_bytes(b"#!/usr/bin/python3 -I\n" + data.getvalue())
    target.chmod(0o755)


def check_tree(root: Path) -> None:
    """Raise SpecError unless the lab can serve the published tree below ``root``."""
    where = str(root)
    if not (root / "tftp").is_dir():
        raise SpecError(
            "holds no published tree", where=where, hint="imagekit netboot publish --root makes one"
        )
    http = tree.load(root).http
    if http not in ("", f"http://{SERVER}"):
        raise SpecError(
            f"the tree's files are said to be at {http}, which the lab is not",
            where=where,
            hint=f"publish into another folder with --http http://{SERVER}, and prove that",
        )


def ship_tree(root: Path, target: Path) -> None:
    """Copy what clients may fetch of the tree below ``root`` to the new directory ``target``.

    Only regular files are taken. Raises SpecError as :func:`check_tree`, and for more than 8 GiB.
    """
    check_tree(root)
    left = MAX_TREE_BYTES
    target.mkdir()
    for source, place in ((root / "tftp", target), (root / "answers", target / "answers")):
        for path in sorted(source.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            left -= path.stat().st_size
            if left < 0:
                raise SpecError("the tree holds more than 8 GiB", where=str(root))
            copy = place / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o644)
