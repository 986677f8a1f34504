"""Serves the files of an ext2, ext3 or ext4 in a disk: a program of its own, which gives up
everything before it looks at the disk (:mod:`imagekit.host.confinement`).

The argument is JSON: the descriptors ``disk``, which is only read, and ``written``, which takes
what is written, and ``most``, how many bytes of that. The protocol is that of
:mod:`imagekit.guest.backends.tree_child`, with three more calls: ``scan`` says what is on the disk,
``open`` begins with one file system of it, and ``finish`` writes what is left and says where.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any

from imagekit.guest.backends import ext_library
from imagekit.guest.backends.ext_blocks import Blocks
from imagekit.guest.backends.ext_inodes import Unsure
from imagekit.guest.backends.ext_tree import ExtTree
from imagekit.guest.backends.tree_child import CALLS, serve
from imagekit.guest.signatures import content_of
from imagekit.guest.table import SECTOR, UnreadableTable, read_table
from imagekit.guest.volumes import UnknownVolumes, volumes_of
from imagekit.host import confinement

_MEMORY = 1 << 30
_CPU_SECONDS = 300
_MAX_RUNS = 200_000
_PROGRAMS = ("21686148-6449-6E6F-744E-656564454649",)
"""GPT types of partitions that hold a program and no files: GRUB's BIOS boot partition."""


class Disk:
    """The calls about the disk, and those of the file system that was opened."""

    def __init__(self, disk: int, written: int, most: int) -> None:
        self._disk, self._written, self._most = disk, written, most
        self._size = os.lseek(disk, 0, os.SEEK_END)
        self._magics = ext_library.magics()
        self._blocks: Blocks | None = None
        self._tree: ExtTree | None = None

    def scan(self, path: str) -> tuple[str, list[tuple[str, int | None, int, int, str]]]:
        """The table of the disk, and what is on it: (name, number of the partition, start, size,
        content). Number 0 is a disk without a table, none a logical volume, named GROUP/VOLUME."""
        del path  # every call has one
        try:
            table, entries = read_table(self._sectors)
        except UnreadableTable:
            raise Unsure("its partition table cannot be read") from None
        found: list[tuple[str, int | None, int, int, str]] = []
        for number, start, size, kind in [(e.number, e.start, e.size, e.type) for e in entries] or [
            (0, 0, self._size, "")
        ]:
            content = self._content(start, kind)
            if content == "lvm":
                found += self._volumes(start, size)
            else:
                found.append((str(number), number, start, size, content))
        return table, found

    def _volumes(self, start: int, size: int) -> list[tuple[str, int | None, int, int, str]]:
        """The same of the logical volumes on the physical volume at ``start``."""
        try:
            volumes = volumes_of(lambda at, count: self._bytes(start + at, count))
        except UnknownVolumes as error:
            raise Unsure(str(error)) from None
        for volume in volumes:
            if volume.start + volume.size > size:
                raise Unsure(f"{volume.group}/{volume.name} is beyond its partition")
        return [
            (
                f"{volume.group}/{volume.name}",
                None,
                start + volume.start,
                volume.size,
                self._content(start + volume.start, ""),
            )
            for volume in volumes
        ]

    def _content(self, start: int, kind: str) -> str:
        if kind in _PROGRAMS:
            return "program"
        return content_of(lambda at, count: self._bytes(start + at, count))

    def open(self, path: str, start: int, length: int) -> None:
        """Begin with the file system of ``length`` bytes at ``start``, and forget another."""
        del path
        if start < 0 or length <= 0 or start + length > self._size:
            raise Unsure("its partition is beyond the end of the disk")
        self._blocks = Blocks(self._disk, self._written, start, length, self._most, self._magics)
        self._tree = ExtTree(self._blocks, length)

    def finish(self, path: str) -> list[tuple[int, int]]:
        """Write what is left; (offset in the file system, length) of all that was written."""
        del path
        if self._tree is None or self._blocks is None:
            raise OSError(errno.EBADF, "no file system is open")
        self._tree.close()
        runs = list(self._blocks.runs())
        if len(runs) > _MAX_RUNS:
            raise Unsure("the changes are scattered too much")
        return runs

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            raise AttributeError(name)
        if self._tree is None:
            raise OSError(errno.EBADF, "no file system is open")
        return getattr(self._tree, name)

    def _sectors(self, first: int, count: int) -> bytes:
        return self._bytes(first * SECTOR, count * SECTOR)

    def _bytes(self, at: int, count: int) -> bytes:
        return os.pread(self._disk, count, at) if 0 <= at < 1 << 62 else b""


def _confine(keep: tuple[int, ...], size: int) -> None:
    """Give up what the host lets us, as the readers of ``imagekit.host.worker_child`` do."""
    forbidding = None
    with suppress(confinement.Missing):
        forbidding = confinement.Allowed()
    confinement.close_all_but({0, 1, 2, *keep})
    with suppress(confinement.Missing):
        confinement.unshare()
        confinement.fork_first()
        confinement.empty_root()
    os.umask(0o077)
    confinement.become_nobody()
    with suppress(confinement.Missing):
        confinement.drop_capabilities()
        confinement.no_new_privileges()
        confinement.die_with_parent()
    confinement.set_limits(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_FSIZE: size,
            resource.RLIMIT_CPU: _CPU_SECONDS,
            resource.RLIMIT_AS: _MEMORY,
        }
    )
    if forbidding is not None:
        with suppress(confinement.Missing):
            forbidding.put_on()


def main() -> int:
    """Give up everything, and serve until there are no more requests."""
    # libext2fs would set the times of files to it.
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    job = json.loads(sys.argv[1])
    disk, written = job["disk"], job["written"]
    "".encode("utf-16-le"), b"".decode("utf-16-le")  # names in a GPT; no codec is loaded later
    _confine((disk, written), max(os.lseek(disk, 0, os.SEEK_END), 1))
    more = ("scan", "open", "finish")
    serve(Disk(disk, written, job["most"]), sys.stdin.buffer, sys.stdout.buffer, more)
    return 0
