"""Writes the prototype file from which mkfs.xfs -p fills a file system (mkfs.xfs(8), "-p")."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TextIO

from imagekit.errors import ImageError


def write_protofile(tree: Path, target: Path) -> None:
    """Describe ``tree`` in ``target``; raises ImageError for names the format cannot hold.

    The format separates fields by blanks and knows no extended attributes.
    """
    with target.open("x", encoding="utf-8", errors="surrogateescape") as out:
        # Boot code, blocks and inodes: two lines that mkfs.xfs reads and ignores.
        out.write("/\n0 0\n")
        out.write(f"{_mode(tree.lstat())}\n")
        _directory(tree, out)
        out.write("$\n")


def _mode(status: os.stat_result) -> str:
    kinds = {
        stat.S_IFREG: "-",
        stat.S_IFDIR: "d",
        stat.S_IFLNK: "l",
        stat.S_IFBLK: "b",
        stat.S_IFCHR: "c",
        stat.S_IFIFO: "p",
    }
    kind = kinds[stat.S_IFMT(status.st_mode)]
    setuid = "u" if status.st_mode & stat.S_ISUID else "-"
    setgid = "g" if status.st_mode & stat.S_ISGID else "-"
    return f"{kind}{setuid}{setgid}{status.st_mode & 0o777:03o} {status.st_uid} {status.st_gid}"


def _directory(directory: Path, out: TextIO) -> None:
    for entry in sorted(os.scandir(directory), key=lambda e: e.name):
        status = entry.stat(follow_symlinks=False)
        if any(c.isspace() for c in entry.name):
            raise ImageError(
                f"{entry.path}: mkfs.xfs cannot take a name with a blank",
                hint="use disk.filesystem: ext4, or rename the file in a script",
            )
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        line = f"{entry.name} {_mode(status)}"
        if kind == stat.S_IFREG:
            if any(c.isspace() for c in entry.path):
                raise ImageError(f"{entry.path}: mkfs.xfs cannot take a path with a blank")
            out.write(f"{line} {entry.path}\n")
        elif kind == stat.S_IFLNK:
            out.write(f"{line} {Path(entry.path).readlink()}\n")
        elif kind in (stat.S_IFBLK, stat.S_IFCHR):
            out.write(f"{line} {os.major(status.st_rdev)} {os.minor(status.st_rdev)}\n")
        elif kind == stat.S_IFDIR:
            out.write(line + "\n")
            _directory(Path(entry.path), out)
            out.write("$\n")
        else:
            out.write(line + "\n")
