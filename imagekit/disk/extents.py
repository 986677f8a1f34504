"""Sparse files: where their data is, and copying and digesting them without touching holes.

Sources: lseek(2) SEEK_DATA and SEEK_HOLE; ioctl_ficlone(2); Linux include/uapi/linux/fs.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, SpecError
from imagekit.host.outfile import os_errors, replacing
from imagekit.host.strangers import open_path

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total)."""

GRANULE = 4096
"""Zeros are turned into holes in units of this many bytes, the block of common file systems."""

BLOCK = 2 << 20
"""Files are read in aligned pieces of this many bytes."""

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_ZEROS = bytes(BLOCK)
_ZERO_GRANULE = bytes(GRANULE)
_NO_SEEK_DATA = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY}


@dataclass(frozen=True)
class Change:
    """A stretch of a disk that differs from the disk it stands on: whole sectors, in bytes.
    ``source`` is where its content begins in the file it is taken from; None means zeros."""

    offset: int
    length: int
    source: int | None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A read-only descriptor of a regular file or block device.

    Raises SpecError for anything else (a FIFO would block for ever), for a missing file and for a
    name that a stranger may have made (:func:`open_path`), HostError for a refused one.
    """
    with os_errors(path):
        fd = open_path(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise SpecError("is neither a file nor a block device", where=str(path))
        with os_errors(path):
            yield fd
    finally:
        os.close(fd)


def size_of(fd: int) -> int:
    """Size in bytes of an open file or block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def data_extents(fd_or_path: int | Path) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) in bytes of every stretch that may hold data, in order.

    What lies between reads as zeros. A file system or device without SEEK_DATA yields the whole
    file. A given descriptor's file position is moved; read with pread(2) meanwhile.
    """
    if isinstance(fd_or_path, Path):
        with opened(fd_or_path) as fd:
            yield from data_extents(fd)
        return
    fd, offset = fd_or_path, 0
    size = size_of(fd)
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in _NO_SEEK_DATA:
                raise
            start, end = offset, size
        end = min(end, size)
        if start >= end:
            return
        yield start, end - start
        offset = end


def has_data(fd: int, offset: int, length: int) -> bool:
    """Whether any of ``length`` bytes at ``offset`` is not a hole."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) < offset + length
    except OSError as error:
        return error.errno != errno.ENXIO


def data_size(path: Path) -> int:
    """Bytes of ``path`` that are not holes."""
    return sum(length for _, length in data_extents(path))


def data_blocks(
    fd: int,
    *,
    block: int = BLOCK,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, bytearray]]:
    """Yield (offset, content) of every aligned block of the file that is not all zeros.

    The content is always ``block`` bytes, filled up with zeros at the end of the file, and is valid
    only until the next step. ``limit`` ends the file early (bytes). Holes are never read. Raises
    HostError when the file shrinks.
    """
    total = size_of(fd) if limit is None else limit
    content = bytearray(block)
    zeros = _ZEROS if block == BLOCK else bytes(block)
    current = -1
    with memoryview(content) as view:
        for offset, length in data_extents(fd):
            end = min(offset + length, total)
            while offset < end:
                start = offset - offset % block
                if start != current:
                    if current >= 0 and not content.startswith(zeros):
                        yield current, content
                    view[:] = zeros
                    current = start
                    if progress is not None:
                        progress(start, total)
                stop = min(end, start + block)
                read_exactly(fd, view[offset - start : stop - start], offset)
                offset = stop
        if current >= 0 and not content.startswith(zeros):
            yield current, content
    if progress is not None:
        progress(total, total)


def read_exactly(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from ``offset`` (bytes); raises HostError at an early end or a read error."""
    done = 0
    while done < len(view):
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            at = f"at byte {offset + done}: {error.strerror}"
            raise HostError(f"the source cannot be read {at}") from error
        if count == 0:
            raise HostError(f"the source became shorter while it was read (byte {offset + done})")
        done += count


def write_exactly(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` (bytes), however often pwrite(2) stops short."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def nonzero_runs(content: bytearray) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the runs in ``content`` without a GRANULE of zeros, in order."""
    size = len(content)
    start = -1
    for offset in range(0, size, GRANULE):
        if offset + GRANULE <= size:
            empty = content.startswith(_ZERO_GRANULE, offset)
        else:
            empty = not any(content[offset:])
        if empty and start >= 0:
            yield start, offset
            start = -1
        elif not empty and start < 0:
            start = offset
    if start >= 0:
        yield start, size


def write_sparse(fd: int, content: bytearray, offset: int, limit: int | None = None) -> None:
    """Write the nonzero runs of ``content`` at ``offset`` of a file that reads as zeros there.

    ``limit`` is how many bytes of ``content`` belong to the file, all of them by default.
    """
    size = len(content) if limit is None else min(limit, len(content))
    with memoryview(content) as view:
        for start, stop in nonzero_runs(content):
            if start < size:
                write_exactly(fd, view[start : min(stop, size)], offset + start)


def copy_data(src_fd: int, dst_fd: int, progress: Progress | None = None) -> None:
    """Copy the nonzero content of one file into another, an empty one; sets its size too."""
    size = size_of(src_fd)
    os.ftruncate(dst_fd, size)
    for offset, content in data_blocks(src_fd, progress=progress):
        write_sparse(dst_fd, content, offset, size - offset)


def copy_sparse(
    src: Path, dst: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> None:
    """Copy ``src`` to the new file ``dst``, keeping holes and making holes of zeros.

    Shares the blocks (reflink) where the file system can. Elsewhere the data is read, as zeros
    cannot be found otherwise, and what was read is written from memory: copy_file_range(2) would
    read it a second time. Raises ExistsError, SpecError, HostError; leaves nothing half written.
    """
    with opened(src) as src_fd:
        refuse_same(src, dst)
        with replacing(dst, overwrite=overwrite) as part, writable(part) as dst_fd:
            try:
                fcntl.ioctl(dst_fd, FICLONE, src_fd)
            except OSError:
                # Not on one reflink-capable file system (EOPNOTSUPP, EXDEV, EINVAL, ENOTTY ...).
                copy_data(src_fd, dst_fd, progress)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[int]:
    """A descriptor of an existing file, for reading and writing; no link of a stranger's."""
    fd = open_path(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def refuse_same(src: Path, dst: Path) -> None:
    """Raise SpecError when both names mean one file."""
    with os_errors(dst), contextlib.suppress(FileNotFoundError):
        if src.samefile(dst):
            raise SpecError("source and target are the same file", where=str(dst))


def sha256_sparse(path: Path) -> str:
    """SHA-256 of the whole content as 64 hex digits; holes are digested without being read."""
    digest = hashlib.sha256()
    with opened(path) as fd, os_errors(path):
        position = 0
        buffer = bytearray(BLOCK)
        with memoryview(buffer) as view:
            for offset, length in data_extents(fd):
                _digest_zeros(digest, offset - position)
                end = position = offset + length
                while offset < end:
                    piece = view[: min(BLOCK, end - offset)]
                    read_exactly(fd, piece, offset)
                    digest.update(piece)
                    offset += len(piece)
        _digest_zeros(digest, size_of(fd) - position)
    return digest.hexdigest()


def _digest_zeros(digest: hashlib._Hash, count: int) -> None:
    with memoryview(_ZEROS) as zeros:
        while count > 0:
            step = min(count, BLOCK)
            digest.update(zeros[:step])
            count -= step
