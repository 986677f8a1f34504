"""Writing a disk to a block device, refusing everything that might be somebody's data.

Sources: open(2) (O_EXCL of a block device), ioctl BLKZEROOUT of linux/fs.h, fallocate(2), blkid(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from imagekit.disk.extents import (
    BLOCK,
    Progress,
    data_extents,
    opened,
    read_exactly,
    size_of,
    write_exactly,
)
from imagekit.errors import BusyError, ExistsError, SpecError
from imagekit.host.outfile import os_errors
from imagekit.host.run import run
from imagekit.host.strangers import open_path

_BLKZEROOUT = 0x127F  # _IO(0x12, 127), linux/fs.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # linux/falloc.h
_NOTHING_FOUND = 2
"""blkid(8): exit status when the device holds nothing it knows."""


def check_device(device: Path, needed: int, *, force: str | None) -> int:
    """The size in bytes of ``device``, if a disk of ``needed`` bytes may be written to it.

    ``force`` must name the same device for one that holds something. Raises SpecError when it is
    no block device, too small or not the one ``force`` names, BusyError when it is in use,
    ExistsError when it holds data.
    """
    with os_errors(device):
        status = device.stat()
    if not stat.S_ISBLK(status.st_mode):
        raise SpecError("is no block device", where=str(device))
    if force is not None:
        with os_errors(Path(force)):
            same = Path(force).stat().st_rdev == status.st_rdev
        if not same:
            raise SpecError(f"--force names {force}, which is another device", where=str(device))
    with exclusive(device) as fd:
        size = size_of(fd)
    if size < needed:
        raise SpecError(f"has {size} bytes, and the disk needs {needed}", where=str(device))
    probe = run(["blkid", "-p", "-o", "export", str(device)], check=False, timeout=60)
    if probe.returncode != _NOTHING_FOUND and force is None:
        found = dict(x.split("=", 1) for x in probe.text.splitlines() if "=" in x)
        what = found.get("TYPE") or found.get("PTTYPE") or "something blkid could not read"
        raise ExistsError(
            f"holds data ({what})",
            where=str(device),
            hint=f"--force {device} overwrites it; make sure nobody needs it",
        )
    return size


@contextlib.contextmanager
def exclusive(device: Path) -> Iterator[int]:
    """A descriptor for writing of a device nobody else uses; raises BusyError, and SpecError for a
    link that strangers may have made.

    O_EXCL fails for a device that is mounted, swap, part of an array or a volume group, or that
    blkback serves to a running domU.
    """
    try:
        fd = open_path(device, os.O_RDWR | os.O_EXCL)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BusyError(
                "is in use: mounted, swap, part of a volume, or a running domU's disk",
                where=str(device),
            ) from None
        with os_errors(device):
            raise
        raise
    try:
        yield fd
    finally:
        os.close(fd)


def write_device(source: Path, device: Path, progress: Progress | None = None) -> None:
    """Write the raw image ``source`` to ``device``; holes become zeros, by the device itself
    where it can. What lies behind the image is zeroed as well, so that no old table is found.

    Raises HostError, BusyError.
    """
    with opened(source) as src, exclusive(device) as dst, os_errors(device):
        total, end = size_of(src), size_of(dst)
        position = 0
        buffer = bytearray(BLOCK)
        with memoryview(buffer) as view:
            for offset, length in data_extents(src):
                _zero(dst, position, offset)
                stop = position = offset + length
                while offset < stop:
                    piece = view[: min(BLOCK, stop - offset)]
                    read_exactly(src, piece, offset)
                    write_exactly(dst, piece, offset)
                    offset += len(piece)
                    if progress is not None:
                        progress(offset, total)
        _zero(dst, position, end)
        os.fsync(dst)


def _zero(fd: int, start: int, end: int) -> None:
    """Zero the bytes from ``start`` to ``end``; devices take whole sectors only.

    Discarded where that is known to give zeros (blkdev_fallocate in Linux, block/fops.c), else by
    the device's own way to write zeros, else by writing them. BLKDISCARD promises no zeros.
    """
    if end <= start:
        return
    first, last = -(-start // 4096) * 4096, end // 4096 * 4096
    if first < last and not _discarded(fd, first, last - first):
        try:
            fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", first, last - first))
        except OSError:
            _write_zeros(fd, first, last)
    _write_zeros(fd, start, min(first, end))
    _write_zeros(fd, max(last, start), end)


def _discarded(fd: int, offset: int, length: int) -> bool:
    """fallocate(2) of a hole in a block device, which Python's os does not have."""
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return int(call(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)) == 0


def _write_zeros(fd: int, start: int, end: int) -> None:
    while start < end:
        step = min(BLOCK, end - start)
        write_exactly(fd, bytes(step), start)
        start += step
