"""What is in the directory of an element, read as something that a stranger may have written.

Regular files, directories, and links that stay inside the element are its content. A link that
leads out would put a file of this host into an image, and a device or a FIFO would never end;
they are refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.errors import SpecError
from imagekit.host.opening import errors_about, open_at, read_bounded, regular
from imagekit.host.outfile import os_errors

IGNORED = frozenset({"tests", "test-elements", "__pycache__"})
MAX_FILE = 64 << 20
MAX_ENTRIES = 100_000
_HINT = "an element holds files, directories, and links to its own files; put a copy there"


@dataclass(frozen=True)
class Entry:
    """Something in an element; a link is one to a file or directory of the same element."""

    name: str
    kind: Literal["file", "directory", "link"]
    leads_to: Literal["file", "directory"]


@contextlib.contextmanager
def held(element: Path) -> Iterator[int]:
    """The open directory of the element; raises SpecError, HostError."""
    with os_errors(element):
        fd = os.open(element, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def entries(element: Path, *, ignore_below: bool = True) -> Iterator[Entry]:
    """What is in the element, files before directories, without its tests and dangling links.

    What a link directly in the element leads to is listed as if it were there itself. Without
    ``ignore_below`` only directly in the element is anything left out. Raises SpecError.
    """
    count = 0
    with held(element) as root:
        for entry in _below(root, element, "", ignore_below=ignore_below):
            count += 1
            if count > MAX_ENTRIES:
                raise SpecError(f"has more than {MAX_ENTRIES} files", where=str(element))
            yield entry


def _below(root: int, element: Path, folder: str, *, ignore_below: bool) -> Iterator[Entry]:
    links: Literal["none", "beneath"] = "none" if "/" in folder else "beneath"
    with errors_about(element / folder):
        flags = os.O_RDONLY | os.O_DIRECTORY
        fd = open_at(root, folder, flags, links=links) if folder else os.dup(root)
    try:
        names = sorted(os.listdir(fd))  # noqa: PTH208 - an open directory, not a path
    finally:
        os.close(fd)
    folders = []
    for name in names:
        path = f"{folder}/{name}" if folder else name
        is_filtered = ignore_below or not folder
        if is_filtered and name.endswith(".pyc"):
            continue
        entry = _entry(root, element, path)
        if entry is None or (is_filtered and entry.leads_to == "directory" and name in IGNORED):
            continue
        if entry.kind == "directory":
            folders.append(entry)
        else:
            yield entry
    for entry in folders:
        yield entry
        yield from _below(root, element, entry.name, ignore_below=ignore_below)


def _entry(root: int, element: Path, path: str) -> Entry | None:
    kind = _kind(root, element, path, os.O_NOFOLLOW)
    if kind not in (stat.S_IFLNK, stat.S_IFREG, stat.S_IFDIR):
        raise SpecError("is a device, FIFO or socket", where=str(element / path), hint=_HINT)
    leads_to = _kind(root, element, path, 0) if kind == stat.S_IFLNK else kind
    if leads_to is None:
        return None
    if leads_to not in (stat.S_IFREG, stat.S_IFDIR):
        raise SpecError("leads to no file", where=str(element / path), hint=_HINT)
    end: Literal["file", "directory"] = "file" if leads_to == stat.S_IFREG else "directory"
    return Entry(path, "link" if kind == stat.S_IFLNK and "/" in path else end, end)


def _kind(root: int, element: Path, path: str, flags: int) -> int | None:
    """The type of ``path`` or, without O_NOFOLLOW, of what it leads to; None for nothing."""
    try:
        fd = open_at(root, path, os.O_PATH | flags, links="beneath")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP, errno.ENOTDIR):
            what = "is or lies behind a link that leads out of the element, or to itself"
            raise SpecError(what, where=str(element / path), hint=_HINT) from None
        with errors_about(element / path):
            raise
    try:
        return stat.S_IFMT(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def read(element: Path, name: str, max_bytes: int = MAX_FILE) -> bytes | None:
    """The content of a file of the element, None where there is none; raises SpecError."""
    with held(element) as root:
        where = element / name
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return None
        with regular(root, name, links="beneath", where=where) as fd:
            if os.fstat(fd).st_size > max_bytes:
                what = f"{where} is larger than {max_bytes >> 20} MiB: not a file of an element"
                raise SpecError(what)
            return read_bounded(fd, max_bytes, where)


def text(element: Path, name: str) -> str | None:
    """As :func:`read`, as text."""
    data = read(element, name)
    return None if data is None else data.decode("utf-8", "replace")


def identity(element: Path, name: str) -> tuple[int, str]:
    """The mode of the name itself, and what it says if it is a link."""
    with held(element) as root, errors_about(element / name):
        fd = open_at(root, name, os.O_PATH | os.O_NOFOLLOW, links="beneath")
        try:
            mode = os.fstat(fd).st_mode
            return mode, os.readlink("", dir_fd=fd) if stat.S_ISLNK(mode) else ""
        finally:
            os.close(fd)


def copy(element: Path, entry: Entry, target: Path) -> None:
    """Copy one entry to the new name ``target``, with its mode and, of a file, its time.

    Of a directory the contents stay away, and ``target`` may be there already.
    """
    if entry.kind == "link":
        target.unlink(missing_ok=True)
        target.symlink_to(identity(element, entry.name)[1])
        return
    with held(element) as root:
        if entry.kind == "directory":
            with errors_about(element / entry.name):
                fd = open_at(root, entry.name, os.O_PATH | os.O_DIRECTORY, links="beneath")
            mode = os.fstat(fd).st_mode
            os.close(fd)
            target.mkdir(exist_ok=True)
            target.chmod(stat.S_IMODE(mode) | 0o700)
            return
        with regular(root, entry.name, links="beneath", where=element / entry.name) as fd:
            target.unlink(missing_ok=True)
            status = os.fstat(fd)
            with os.fdopen(os.dup(fd), "rb") as source, target.open("xb") as made:
                shutil.copyfileobj(source, made, 1 << 20)
        target.chmod(stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
