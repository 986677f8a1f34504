"""Files of the host that go into a guest: each is opened once, and no link below them followed.

The directory that is copied may be a stranger's, who swaps its files meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagekit.errors import GuestError
from imagekit.guest.accounts import find_owner
from imagekit.guest.changes import Copy
from imagekit.guest.files import GuestFiles
from imagekit.host.opening import Held, errors_about, regular
from imagekit.host.outfile import by_descriptor, os_errors
from imagekit.host.strangers import open_path, refuse_second_name

_DEEPEST = 100
"""Directories in each other; every one of them is held open."""


def copy(change: Copy, files: GuestFiles) -> None:
    """Copy a file or tree of the host into the guest; links in it are copied as links.

    Raises GuestError, and SpecError for a name that a stranger may have put there for another file.
    """
    owner = find_owner(files, change.owner)
    source = change.source.absolute()
    with os_errors(source):
        fd = open_path(source, os.O_RDONLY | os.O_NONBLOCK)
    held = Held(fd)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            files.make_directory(change.target)
            _Tree(files, owner).copy(held, source, change.target.rstrip("/"), 0)
        elif stat.S_ISREG(status.st_mode):
            mode = status.st_mode & 0o777 if change.mode is None else change.mode
            with by_descriptor(fd, source) as name:
                files.write(change.target, name, mode=mode, owner=owner)
        else:
            raise _is_no_file(source)
    finally:
        held.close()


class _Tree:
    def __init__(self, files: GuestFiles, owner: tuple[int, int]) -> None:
        self._files = files
        self._owner = owner

    def copy(self, held: Held, source: Path, target: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise GuestError(
                f"has more than {_DEEPEST} directories in each other", where=str(source)
            )
        folders = []
        for name in sorted(held.names()):
            if self._entry(held, name, source / name, f"{target}/{name}"):
                folders.append(name)
        for name in folders:
            with _folder(held, name, source / name) as below:
                self.copy(below, source / name, f"{target}/{name}", depth + 1)

    def _entry(self, held: Held, name: str, source: Path, target: str) -> bool:
        """Copy what has this name; true for a directory, whose content is left."""
        with errors_about(source):
            status = held.status(name)
        if stat.S_ISLNK(status.st_mode):
            with errors_about(source):
                self._files.link(target, os.readlink(name, dir_fd=held.fd))
        elif stat.S_ISDIR(status.st_mode):
            if self._files.stat(target) is None:
                made = self._files.make_directory(target)
                self._files.chown(made, self._owner)
                self._files.chmod(made, status.st_mode & 0o777)
            return True
        elif stat.S_ISREG(status.st_mode):
            with regular(held.fd, name, where=source) as fd, by_descriptor(fd, source) as path:
                found = os.fstat(fd)
                refuse_second_name(held.fd, found, source)
                self._files.write(target, path, mode=found.st_mode & 0o777, owner=self._owner)
        else:
            raise _is_no_file(source)
        return False


@contextmanager
def _folder(held: Held, name: str, source: Path) -> Iterator[Held]:
    with errors_about(source):
        below = held.folder(name)
    try:
        yield below
    finally:
        below.close()


def _is_no_file(source: Path) -> GuestError:
    return GuestError("is a device, pipe or socket; only files are copied", where=str(source))
