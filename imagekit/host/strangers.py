"""Absolute paths that lead through directories of other users.

A name in a directory that a stranger may write to can be theirs at any moment: a link to a file of
the host's, or a second name of one. :func:`open_path` opens a path and follows no such name;
:func:`why_not_private` tells whether strangers can change what a path means. Who is a stranger is
told by ``imagekit.host.ownership``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, SpecError
from imagekit.host import ownership
from imagekit.host.ownership import name_of, other_writers

_OVERFLOW = int(Path("/proc/sys/kernel/overflowuid").read_text())
_MAX_LINKS = 40  # path_resolution(7)
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PROC = Path("/proc").stat().st_dev
_HINT = "name the file itself, and keep it where nobody else may write"


def open_path(path: Path, flags: int) -> int:
    """A descriptor of what ``path`` names; raises SpecError for a name that a stranger may have put
    there for something else, OSError.

    Refused are symbolic links that strangers own or could replace, and, where strangers may add
    names to a directory, files that have a second one (link(2)), unless they are theirs.
    """
    walk = _Walk(path)
    try:
        return walk.open(flags)
    finally:
        walk.close()


def open_folder(path: Path) -> int:
    """As :func:`open_path`, a directory, for names below it."""
    return open_path(path, os.O_RDONLY | os.O_DIRECTORY)


def make_folder(path: Path, mode: int = 0o755) -> int:
    """As :func:`open_folder`; what is missing of ``path`` is made with ``mode``."""
    walk = _Walk(path, make=mode)
    try:
        return walk.open(os.O_RDONLY | os.O_DIRECTORY)
    finally:
        walk.close()


def why_not_private(path: Path) -> str:
    """Who could put something else in the place of ``path``, an existing directory, or into it, as
    the end of a sentence about it; empty when strangers cannot. Raises OSError.
    """
    walk = _Walk(path)
    try:
        fd = walk.open(os.O_PATH | os.O_DIRECTORY)
        try:
            seen = [*walk.seen, *map(_seen, walk.held)]
            return next(filter(None, [*map(_who, seen), _who(_seen(fd), last=True)]), "")
        finally:
            os.close(fd)
    except SpecError as error:
        return error.what
    finally:
        walk.close()


def require_private_path(path: Path, hint: str) -> None:
    """Raise HostError if strangers could change what is in the directory ``path``, or what it is.

    That holds for the directories above it too: who may write to one can rename what is below.
    """
    try:
        reason = why_not_private(path)
    except OSError as error:
        raise HostError(f"cannot open it: {error.strerror}", where=str(path), hint=hint) from None
    if reason:
        raise HostError(reason, where=str(path), hint=hint)


def require_kept_file(path: Path, hint: str) -> None:
    """Raise HostError if strangers could write to ``path``, or put another file in its place.

    For programs that open it by its name more than once. A directory with a sticky bit above it, as
    /tmp, is well: others cannot rename what is not theirs there.
    """
    walk = _Walk(path)
    try:
        fd = walk.open(os.O_PATH)
        try:
            reason = next(filter(None, map(_who, [*walk.seen, *map(_seen, walk.held)])), "")
            if not reason and stat.S_ISREG(os.fstat(fd).st_mode):
                reason = _who(_seen(fd), last=True)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot open it: {error.strerror}", where=str(path), hint=hint) from None
    finally:
        walk.close()
    if reason:
        raise HostError(f"others could change it: {reason}", where=str(path), hint=hint)


@dataclass(frozen=True)
class _Seen:
    """What matters of a directory on the way."""

    name: str
    owner: int
    writers: str
    sticky: bool


def _seen(fd: int) -> _Seen:
    status = os.fstat(fd)
    name = str(Path(f"/proc/self/fd/{fd}").readlink())
    writers = other_writers(fd, sticky=False)
    return _Seen(name, status.st_uid, writers, bool(status.st_mode & stat.S_ISVTX))


def _who(seen: _Seen, *, last: bool = False) -> str:
    if seen.owner not in _trusted():
        return f"{seen.name} belongs to {name_of(seen.owner)}"
    if seen.writers and (last or not seen.sticky):
        return f"{seen.name} is writable for {seen.writers}"
    return ""


def _trusted() -> frozenset[int]:
    """In a user namespace where the host's root has no number, he shows up as another: whoever has
    the root directory (user_namespaces(7), "Unmapped user and group IDs")."""
    owner = Path("/").stat().st_uid
    return ownership.trusted_owners() | ({owner} if owner == _OVERFLOW else set())


class _Walk:
    """From ``/`` to a path, with every directory held open: what is checked is what is used."""

    def __init__(self, path: Path, make: int | None = None) -> None:
        self._path = path
        self._make = make
        self._links = 0
        self.held = [os.open("/", os.O_PATH | _FOLDER)]
        self.seen: list[_Seen] = []
        """Directories that links on the way lay in."""
        self._todo = _parts(str(path if path.is_absolute() else Path.cwd() / path))

    def close(self) -> None:
        while self.held:
            os.close(self.held.pop())

    def open(self, flags: int) -> int:
        try:
            return self._open(flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            error.filename = str(self._path)  # not the part of it alone
            raise

    def _open(self, flags: int) -> int:
        while self._todo:
            if self._in_proc():
                # Its links are the kernel's, and no names: they lead to open files.
                rest = "/".join(reversed(self._todo))
                return os.open(rest, flags, dir_fd=self.held[-1])
            part = self._todo.pop()
            if part == "..":
                if len(self.held) > 1:
                    os.close(self.held.pop())
            elif (target := self._link(part)) is not None:
                self._follow(part, target)
            elif self._todo:
                self._make_missing(part)
                self.held.append(_folder(part, self.held[-1]))
            else:
                self._make_missing(part)
                return self._last(part, flags)
        return os.open(".", flags, dir_fd=self.held[-1])

    def _make_missing(self, part: str) -> None:
        if self._make is not None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, self._make, dir_fd=self.held[-1])

    def _last(self, part: str, flags: int) -> int:
        fd = os.open(part, flags | os.O_NOFOLLOW, dir_fd=self.held[-1])
        try:
            status = os.fstat(fd)
            if stat.S_ISLNK(status.st_mode):  # with O_PATH, one that was put there meanwhile
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path))
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                self._check_names(status)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _in_proc(self) -> bool:
        return os.fstat(self.held[-1]).st_dev == _PROC

    def _link(self, part: str) -> str | None:
        try:
            return os.readlink(part, dir_fd=self.held[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def _follow(self, part: str, target: str) -> None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path))
        here = self.held[-1]
        owner = os.stat(part, dir_fd=here, follow_symlinks=False).st_uid
        seen = _seen(here)
        reason = _who(seen)
        if not reason and owner not in _trusted():
            reason = f"it belongs to {name_of(owner)}"
        if reason:
            raise SpecError(
                f"{part} is a symbolic link that a stranger may have put there: {reason}",
                where=str(self._path),
                hint=_HINT,
            )
        self.seen.append(seen)
        if target.startswith("/"):
            while len(self.held) > 1:
                os.close(self.held.pop())
        self._todo += _parts(target)

    def _check_names(self, status: os.stat_result) -> None:
        """A file with two names may be the host's, and this its second."""
        seen = _seen(self.held[-1])
        if not _who(seen, last=True):
            return
        if status.st_uid == seen.owner and status.st_uid not in _trusted():
            return
        raise SpecError(
            f"has {status.st_nlink} names, and strangers may have given it this one: "
            + _who(seen, last=True),
            where=str(self._path),
            hint="copy it to a directory where nobody else may write",
        )


def _parts(name: str) -> list[str]:
    return [part for part in reversed(name.split("/")) if part not in ("", ".")]


def _folder(part: str, directory: int) -> int:
    """An open directory; one that may only be passed through is opened without reading rights."""
    try:
        return os.open(part, os.O_RDONLY | _FOLDER, dir_fd=directory)
    except PermissionError:
        return os.open(part, os.O_PATH | _FOLDER, dir_fd=directory)
