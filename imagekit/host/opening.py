"""Opening what lies in a directory that somebody else may write.

A name is resolved once, below a directory that is held open, and what was opened is then checked
and used by its descriptor. openat2(2) resolves it where the kernel has that (Linux 5.6), a walk
from directory to directory elsewhere. Who may write to a directory is told by :func:`other_writers`
and :func:`owner_is_trusted`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors

Links = Literal["none", "beneath", "root"]
"""Which symbolic links are followed: none; those that stay below the directory; all, with ``/`` and
``..`` ending at the directory, as after chroot(2)."""

_OPENAT2 = 437  # on every architecture that Debian has (include/uapi/asm-generic/unistd.h)
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x02, 0x04, 0x08, 0x10  # linux/openat2.h
_RESOLVE = {
    "none": _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS,
    "beneath": _BENEATH | _NO_MAGICLINKS,
    "root": _IN_ROOT | _NO_MAGICLINKS,
}
_MAX_LINKS = 40  # path_resolution(7)
_TRIES = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_LIBC = ctypes.CDLL(None, use_errno=True)


def open_at(directory: int, name: str, flags: int, *, mode: int = 0, links: Links = "none") -> int:
    """A descriptor of ``name`` below the open ``directory``; raises OSError.

    ELOOP is a link that is not followed, EXDEV a name that leads out.
    """
    flags |= os.O_CLOEXEC | (0 if flags & os.O_PATH else os.O_NOCTTY)
    if "\0" in name:
        raise OSError(errno.EINVAL, "a name with a zero byte", name)
    try:
        return _openat2(directory, name, flags, mode, links)
    except OSError as error:
        # EPERM is what filters of system calls answer; EAGAIN a name that others keep moving.
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EAGAIN):
            raise
    return walk(directory, name, flags, mode=mode, links=links)


def _openat2(directory: int, name: str, flags: int, mode: int, links: Links) -> int:
    how = _How(flags, mode if flags & os.O_CREAT else 0, _RESOLVE[links])
    number = 0
    for _ in range(_TRIES):
        fd = _LIBC.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_long(directory),
            ctypes.c_char_p(os.fsencode(name)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), name)


def walk(directory: int, name: str, flags: int, *, mode: int = 0, links: Links = "none") -> int:
    """As :func:`open_at`, from directory to directory with openat(2), for kernels without better.

    Every directory on the way stays open, so that ``..`` leads where the walk came from, whatever
    is moved meanwhile.
    """
    if not name:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if name.endswith("/"):
        flags |= os.O_DIRECTORY
    held = [os.dup(directory)]
    try:
        return _walk(held, name, flags, mode, links)
    finally:
        for fd in held:
            os.close(fd)


def _walk(held: list[int], name: str, flags: int, mode: int, links: Links) -> int:
    todo = _parts(held, name, links)
    followed = 0
    wants_link = bool(flags & os.O_PATH and flags & os.O_NOFOLLOW)
    while todo:
        part = todo.pop()
        if part == "..":
            _up(held, name, links)
            continue
        target = _link(held[-1], part)
        if not todo and (not target or wants_link):
            return os.open(part, flags | os.O_NOFOLLOW, mode, dir_fd=held[-1])
        if not target:
            held.append(os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=held[-1]))
            continue
        if not todo and flags & os.O_CREAT and flags & os.O_EXCL:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        followed += 1
        if links == "none" or followed > _MAX_LINKS or (not todo and flags & os.O_NOFOLLOW):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        todo += _parts(held, target, links)
    return os.open(".", flags, mode, dir_fd=held[-1])


def _parts(held: list[int], name: str, links: Links) -> list[str]:
    """The parts of ``name``, last first; an absolute one starts at the first directory again."""
    if name.startswith("/"):
        if links != "root":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        while len(held) > 1:
            os.close(held.pop())
    return [part for part in reversed(name.split("/")) if part not in ("", ".")]


def _up(held: list[int], name: str, links: Links) -> None:
    if len(held) > 1:
        os.close(held.pop())
    elif links != "root":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)


def _link(directory: int, part: str) -> str:
    """What the link ``part`` says; nothing when it is no link, or not there."""
    try:
        return os.readlink(part, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return ""
        raise


@contextlib.contextmanager
def errors_about(where: Path) -> Iterator[None]:
    """As :func:`os_errors`, for names that mean nothing without the directory they are below."""
    with os_errors(where):
        try:
            yield
        except OSError as error:
            error.filename = None
            raise


@contextlib.contextmanager
def regular(
    directory: int, name: str, *, links: Links = "none", where: Path | None = None
) -> Iterator[int]:
    """A descriptor for reading of the regular file ``name``.

    Nothing else is ever opened for reading: opening a FIFO waits, and opening a device can do
    something. Raises SpecError about ``where``, HostError for what the host refuses.
    """
    where = where or Path(name)
    with errors_about(where):
        try:
            found = open_at(directory, name, os.O_PATH, links=links)
        except OSError as error:
            raise _explained(error, links, where) from None
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise SpecError("is not a regular file", where=str(where))
        with os_errors(where):
            fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        yield fd
    finally:
        os.close(fd)


def _explained(error: OSError, links: Links, where: Path) -> OSError | SpecError:
    hint = "put a copy of the file there instead of the link"
    if error.errno == errno.EXDEV:
        return SpecError("a link leads out of its directory", where=str(where), hint=hint)
    if error.errno == errno.ELOOP and links == "none":
        return SpecError("is or lies behind a symbolic link", where=str(where), hint=hint)
    return error


def read_bounded(fd: int, max_bytes: int, where: Path) -> bytes:
    """All of an open file from its start; raises SpecError when it has more than ``max_bytes``."""
    pieces = []
    offset = 0
    with os_errors(where):
        while piece := os.pread(fd, min(1 << 20, max_bytes + 1 - offset), offset):
            pieces.append(piece)
            offset += len(piece)
            if offset > max_bytes:
                raise SpecError(f"has more than {max_bytes} bytes", where=str(where))
    return b"".join(pieces)


class Held:
    """A directory held open: what is done below it follows no symbolic link and cannot be led away.

    Names are relative. All methods raise OSError.
    """

    def __init__(self, fd: int) -> None:
        """Take over the open directory ``fd``; :meth:`close` closes it."""
        self.fd = fd

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.fd)

    def status(self, name: str) -> os.stat_result:
        """Of ``name`` itself, also if it is a link."""
        fd = open_at(self.fd, name, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        """What is in the directory itself."""
        return os.listdir(self.fd)  # noqa: PTH208 - an open directory, not a path

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The content of a regular file, None when there is none.

        Raises SpecError for what is no regular file, and for a larger one.
        """
        try:
            self.status(name)
        except FileNotFoundError:
            return None
        with regular(self.fd, name) as fd:
            return read_bounded(fd, max_bytes, Path(name))

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Put a file in the place of whatever has this name, whole or not at all."""
        with self.below(name) as (folder, last):
            part = f".imagekit-{secrets.token_hex(6)}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(part, flags, mode, dir_fd=folder.fd)
            try:
                with os.fdopen(fd, "wb") as stream:
                    stream.write(text.encode())
                os.rename(part, last, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=folder.fd)
                raise

    def remove(self, name: str) -> None:
        """Remove a file or link; none is well too."""
        with contextlib.suppress(FileNotFoundError), self.below(name) as (folder, last):
            os.unlink(last, dir_fd=folder.fd)

    def folder(self, name: str, *, make: bool = False) -> Held:
        """The directory ``name`` below, to be closed; ``make`` makes it and those above it."""
        fd = os.dup(self.fd)
        try:
            for part in Path(name).parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                below = open_at(fd, part, _DIRECTORY)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return Held(fd)

    @contextlib.contextmanager
    def below(self, name: str) -> Iterator[tuple[Held, str]]:
        """The directory in which ``name`` lies, and its last part."""
        path = Path(name)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise OSError(errno.EINVAL, "is no name of a file below", name)
        folder = self.folder(str(path.parent))
        try:
            yield folder, path.name
        finally:
            folder.close()

    def path(self, name: str) -> Path:
        """A path to ``name``, one plain part, by way of the descriptor, for what takes paths.

        Good in this process alone and until the directory is closed.
        """
        return Path(f"/proc/self/fd/{self.fd}", name)
