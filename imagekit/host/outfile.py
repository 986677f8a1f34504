"""Artefacts appear under their final name whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from imagekit.errors import ExistsError, HostError, ImagekitError, SpecError
from imagekit.host.strangers import open_folder

_FULL = {errno.ENOSPC, errno.EDQUOT}
_USER = {
    errno.ENOENT: "no such file or directory",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EISDIR: "is a directory",
    errno.ELOOP: "too many levels of symbolic links",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextlib.contextmanager
def os_errors(where: Path) -> Iterator[None]:
    """Turn an OSError of the block into an error about ``where`` that a user understands.

    Raises SpecError for a path that cannot be meant, HostError for everything the host refuses:
    no space left, a file larger than the file system or a limit allows, permissions, I/O errors.
    """
    try:
        yield
    except OSError as error:
        raise _explained(error, where) from error


def _explained(error: OSError, where: Path) -> SpecError | HostError:
    if error.errno in _FULL:
        return no_space(where)
    if error.errno == errno.EFBIG:
        return HostError(
            "the file would be larger than the file system or the file size limit allows",
            where=str(where),
            hint="check `ulimit -f`, or write to another file system",
        )
    name = Path(os.fsdecode(error.filename)) if error.filename else where
    if error.errno in _USER:
        return SpecError(_USER[error.errno], where=str(name))
    return HostError(error.strerror or str(error), where=str(name))


def no_space(where: Path) -> HostError:
    """The error for a file system that is full."""
    return HostError(
        "no space left on the device",
        where=str(where),
        hint="free some space or write to another file system; nothing was left behind",
    )


def check_target(dst: Path, *, overwrite: bool) -> None:
    """Refuse a target that must not be written.

    Raises ExistsError when ``dst`` exists and ``overwrite`` is false, SpecError when it is not a
    regular file (a rename would replace the device node itself) or its directory does not exist.
    """
    with os_errors(dst):
        if not stat.S_ISDIR(dst.absolute().parent.stat().st_mode):
            raise SpecError("is not a directory", where=str(dst.parent))
        try:
            mode = dst.lstat().st_mode
        except FileNotFoundError:
            return
    if stat.S_ISDIR(mode) or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise SpecError(
            "is not a regular file, and only those are written",
            where=str(dst),
            hint="name a file; copy to a block device with dd or the volume manager's own tool",
        )
    if not overwrite:
        raise _exists(dst)


@contextlib.contextmanager
def replacing(dst: Path, *, overwrite: bool = False, mode: int = 0o600) -> Iterator[Path]:
    """Yield a path to a new empty file; it becomes ``dst`` when the block succeeds.

    ``mode`` are its permission bits, less the umask. What holds a disk is its owner's alone:
    password hashes and host keys are in it.

    The file lies beside ``dst``, but the path leads through an open descriptor: whoever may write
    to that directory cannot have something else written to or renamed. It is good for programs of
    ours too, and for the block only; errors of the block name ``dst`` instead.

    On any failure, also an interrupt, the file is removed and ``dst`` is as it was. Without
    ``overwrite`` a ``dst`` that appeared meanwhile is kept too. Raises as :func:`check_target` and
    :func:`os_errors`, and SpecError for a directory behind a stranger's link.
    """
    check_target(dst, overwrite=overwrite)
    with os_errors(dst):
        folder = open_folder(dst.absolute().parent)
    try:
        part = temporary_name(dst).name
        with os_errors(dst):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(part, flags, mode, dir_fd=folder)
        try:
            with by_descriptor(fd, dst) as name, os_errors(dst):
                yield name
                _publish(fd, folder, part, dst, overwrite=overwrite)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def by_descriptor(fd: int, path: Path) -> Iterator[Path]:
    """A path to the open file ``fd``, for this process and its children, in the block.

    Errors of the block that name it name ``path`` instead, the file as the user knows it.
    """
    name = f"/proc/{os.getpid()}/fd/{fd}"
    try:
        yield Path(name)
    except ImagekitError as error:
        rest = (error.where or "").removeprefix(name)
        if rest != (error.where or "") and not rest[:1].isdigit():
            error.where = f"{path}{rest}"
        raise
    except OSError as error:
        if error.filename is not None and os.fsdecode(error.filename) == name:
            error.filename = str(path)
        raise


def temporary_name(dst: Path) -> Path:
    """An unused hidden name in the directory of ``dst``."""
    return dst.with_name(f".{dst.name[:64]}.{secrets.token_hex(6)}.part")


def _publish(fd: int, folder: int, part: str, dst: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.rename(part, dst.name, src_dir_fd=folder, dst_dir_fd=folder)
        _require_same(fd, folder, dst)
        return
    try:
        # link(2) fails when dst exists, rename(2) would replace it.
        os.link(f"/proc/self/fd/{fd}", dst.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise _exists(dst) from None
    except FileNotFoundError:
        raise _swapped(dst) from None  # it has no name any more: somebody removed it
    except OSError:
        # A file system without hard links (vfat).
        if _is_there(folder, dst.name):
            raise _exists(dst) from None
        os.rename(part, dst.name, src_dir_fd=folder, dst_dir_fd=folder)
        _require_same(fd, folder, dst)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _require_same(fd: int, folder: int, dst: Path) -> None:
    """Say so when somebody put another file in the place of what was renamed."""
    made = os.fstat(fd)
    found = os.stat(dst.name, dir_fd=folder, follow_symlinks=False)
    if (made.st_dev, made.st_ino) != (found.st_dev, found.st_ino):
        raise _swapped(dst)


def _swapped(dst: Path) -> HostError:
    return HostError(
        "another file was put in its place while it was written",
        where=str(dst),
        hint="write to a directory where nobody else may write",
    )


def _exists(dst: Path) -> ExistsError:
    return ExistsError(
        "exists already",
        where=str(dst),
        hint="choose another name, or ask for it to be overwritten (--force)",
    )
