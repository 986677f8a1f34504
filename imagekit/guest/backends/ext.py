"""Files of an ext2, ext3 or ext4 in a disk that nobody mounts, changed without an appliance.

A child that has given up everything serves them by libext2fs
(:mod:`imagekit.guest.backends.ext_child`). It only reads the disk; what is to be written it leaves
in a file of ours.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import Popen
from typing import Any, get_args

from imagekit.errors import GuestError, HostError
from imagekit.guest.backends.served import ServedFiles
from imagekit.guest.files import NeedsAppliance
from imagekit.guest.signatures import Content
from imagekit.host.run import child_argv, spawn

SHIPS = (
    "ext_child.py",
    "ext_tree.py",
    "ext_inodes.py",
    "ext_blocks.py",
    "ext_library.py",
    "tree_child.py",
)
_UNSURE = (errno.EOPNOTSUPP, errno.EUCLEAN, errno.EIO, errno.EFBIG, errno.ENOMEM, errno.EINVAL)
"""What is left to the appliance: what the child does not do, and what is damaged."""


@dataclass(frozen=True)
class Place:
    """What is at ``start`` of a disk, ``size`` bytes; ``number`` is the partition's, 0 for the disk
    itself, None for the logical volume ``name``."""

    name: str
    number: int | None
    start: int
    size: int
    content: Content


@contextlib.contextmanager
def ext_files(disk: int, written: int, most: int) -> Iterator[ExtFiles]:
    """The files of a file system of the open ``disk`` for the length of a block.

    ``written`` is open for reading and writing, and takes what is changed, at most ``most`` bytes.
    Raises NeedsAppliance where libext2fs is not.
    """
    job = json.dumps({"disk": disk, "written": written, "most": most})
    argv = [*child_argv("imagekit.guest.backends.ext_child"), job]
    with contextlib.ExitStack() as stack:
        try:
            child = stack.enter_context(spawn(argv, stdin=True, pass_fds=(disk, written)))
        except HostError as error:
            raise NeedsAppliance(error.what) from error
        yield ExtFiles(child)


class ExtFiles(ServedFiles):
    """The file operations of one file system; made by :func:`ext_files`.

    Methods raise NeedsAppliance for what they would not do exactly as a kernel.
    """

    def __init__(self, child: Popen[bytes]) -> None:
        super().__init__(child)
        self.elsewhere: tuple[str, ...] = ()
        """Directories in which the guest mounts something else."""

    def scan(self) -> tuple[str, tuple[Place, ...]]:
        """The kind of the disk's partition table, and what is in each partition and volume."""
        found = self._call("scan", "/")[0]
        with self._as_agreed():
            table, contents = found
            places = tuple(
                Place(
                    str(name),
                    None if number is None else int(number),
                    int(start),
                    int(size),
                    _content(content),
                )
                for name, number, start, size, content in contents
            )
        return str(table), places

    def open(self, place: Place) -> None:
        """Begin with the file system at ``place``, and forget what was done to another."""
        self.elsewhere = ()
        self._call("open", "/", start=place.start, length=place.size)

    def finish(self) -> list[tuple[int, int]]:
        """Write what is left; (offset in the file system, length) of all that was written, in
        bytes."""
        found = self._call("finish", "/")[0]
        with self._as_agreed():
            return [(int(offset), int(length)) for offset, length in found]

    def _call(
        self, call: str, path: str, data: bytes | None = None, **more: int | str
    ) -> tuple[Any, bytes]:
        for point in self.elsewhere:
            if f"{path}/".startswith(f"{point}/"):
                raise NeedsAppliance(f"{point} is another file system")
        return super()._call(call, path, data, **more)

    def _refused(self, number: int, what: str, path: str) -> GuestError:
        if number in _UNSURE:
            raise NeedsAppliance(f"{path}: {what}")
        if number == errno.ENOSPC:
            return GuestError(
                "the guest's file system has no room for it",
                where=path,
                hint="make it larger (imagekit provision --size), or remove something: --delete",
            )
        return GuestError(what, where=path)

    def _ended(self) -> GuestError:
        raise NeedsAppliance(f"the program that changes ext4 ended: {self._last_words()}")


def _content(said: str) -> Content:
    if said not in get_args(Content):
        raise ValueError(said)
    return said  # type: ignore[return-value] # it is one of them
