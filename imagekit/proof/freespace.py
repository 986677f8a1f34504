"""Finds full file systems in a guest's image, which its console seldom names as the cause.

systemd reports that units failed, and hides "No space left on device" in a journal that cannot be
written. So the superblocks are read: ext2 to ext4 (Linux Documentation/filesystems/ext4/super.rst),
XFS (fs/xfs/libxfs/xfs_format.h) and Btrfs (include/uapi/linux/btrfs_tree.h), directly on the disk
or in partitions of GPT (UEFI 2.10, 5.3) or MBR; not inside LVM.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk import qemu_img
from imagekit.errors import ImagekitError
from imagekit.host.worker import MIB, Confined, Limits

SECTOR = 512
MAX_PARTITIONS = 16
HEAD = 66 << 10
"""Bytes from the beginning of a file system that hold all three kinds of superblock."""

_TABLE = 34 * SECTOR


@dataclass(frozen=True)
class FullFileSystem:
    """A file system with no space: ``partition`` counts from 1, 0 is the whole disk."""

    partition: int
    kind: str
    free: int
    total: int
    unit: str

    def __str__(self) -> str:
        where = f"partition {self.partition}" if self.partition else "the disk"
        return f"{self.kind} on {where} of the image: {self.free} of {self.total} {self.unit} free"


def full_file_systems(image: Path, image_format: str) -> tuple[str, ...]:
    """The full file systems of ``image`` (raw, qcow2 or vhd), each in words.

    () also where it cannot be read.
    """
    found = []
    with contextlib.suppress(ImagekitError, OSError):
        table = qemu_img.read(image, image_format, 0, _TABLE)
        for number, start in [(0, 0), *_PARTITIONS(str(image), [], table)]:
            head = qemu_img.read(image, image_format, start * SECTOR, HEAD)
            full = _FULL(str(image), [], head, number)
            if full is not None:
                found.append(str(full))
    return tuple(found)


def partitions(table: bytes) -> Iterator[tuple[int, int]]:
    """Number and first sector of each partition that the disk's first 34 sectors name."""
    table = table.ljust(_TABLE, b"\0")
    entries: list[int] = []
    if table[SECTOR : SECTOR + 8] == b"EFI PART":
        size, offset = struct.unpack_from("<I", table, SECTOR + 84)[0], 2 * SECTOR
        if 128 <= size <= 4096:
            entries = [
                struct.unpack_from("<Q", table, at + 32)[0]
                for at in range(offset, len(table) - 40, size)
            ]
    elif table[510:512] == b"\x55\xaa":
        entries = [struct.unpack_from("<I", table, 446 + 16 * n + 8)[0] for n in range(4)]
    for number, first in enumerate(entries[:MAX_PARTITIONS], 1):
        if 0 < first < 1 << 50:
            yield number, first


def full_file_system(head: bytes, partition: int) -> FullFileSystem | None:
    """What the beginning of a file system says, if that is that nobody but root can write to it."""
    head = head.ljust(HEAD, b"\0")
    if head[1024 + 56 : 1024 + 58] == b"\x53\xef":
        return _ext(head[1024:2048], partition)
    if head[:4] == b"XFSB":
        total, free = struct.unpack_from(">Q", head, 8)[0], struct.unpack_from(">Q", head, 144)[0]
        # XFS keeps some blocks of each allocation group to itself (xfs_alloc_set_aside()).
        groups = struct.unpack_from(">I", head, 88)[0]
        full = free <= 8 * groups
        return FullFileSystem(partition, "XFS", free, total, "blocks") if full else None
    if head[65536 + 64 : 65536 + 72] == b"_BHRfS_M":
        total, used = struct.unpack_from("<QQ", head, 65536 + 112)
        free = max(0, total - used)
        full = free < total // 100
        return FullFileSystem(partition, "Btrfs", free, total, "bytes") if full else None
    return None


def _ext(block: bytes, partition: int) -> FullFileSystem | None:
    inodes, total, reserved, free, free_inodes = struct.unpack_from("<5I", block, 0)
    if struct.unpack_from("<I", block, 0x60)[0] & 0x80:  # INCOMPAT_64BIT
        high = struct.unpack_from("<3I", block, 0x150)
        total, reserved, free = (
            low | up << 32 for low, up in zip((total, reserved, free), high, strict=True)
        )
    if free <= reserved or free == 0:
        return FullFileSystem(partition, "ext4", free, total, "blocks")
    if free_inodes == 0:
        return FullFileSystem(partition, "ext4", 0, inodes, "inodes")
    return None


def _partitions(_files: tuple[int, ...], table: bytes) -> tuple[tuple[int, int], ...]:
    return tuple(partitions(table))


def _full(_files: tuple[int, ...], head: bytes, partition: int) -> FullFileSystem | None:
    return full_file_system(head, partition)


# The disk is the guest's, who may have written anything into its tables.
_PARTITIONS = Confined(_partitions, "the partition table", Limits(answer=MIB))
_FULL = Confined(_full, "the file system", Limits(answer=MIB))
