"""VHD images, dynamic and fixed, of the exact size for every reader.

The profile (creator ``tap``, batmap, geometry by the specification, data aligned to 4 KiB) is the
one whose size QEMU, libvhdi and XenServer's ``vhd-util check`` agree on; what ``qemu-img`` writes
is either rounded to a geometry or refused by the latter.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import UUID

from imagekit.disk import vhd_format as form
from imagekit.disk.extents import (
    Progress,
    data_blocks,
    opened,
    refuse_same,
    size_of,
    writable,
    write_exactly,
    write_sparse,
)
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import SpecError
from imagekit.host.outfile import replacing
from imagekit.spec.derived import source_date_epoch, vhd_size

Subformat = Literal["dynamic", "fixed"]

_ALIGN = 4096
_TABLE_OFFSET = form.FOOTER_SIZE + form.HEADER_SIZE
_FULL_BITMAP = b"\xff" * form.SECTOR


def virtual_size_of(size_bytes: int) -> int:
    """The disk size in bytes a VHD has that holds ``size_bytes``; see :func:`vhd_size`."""
    return vhd_size(size_bytes)


def write_vhd(
    src_raw: Path,
    dst: Path,
    *,
    subformat: Subformat = "dynamic",
    unique_id: UUID | None = None,
    timestamp: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Write the raw image ``src_raw`` as a VHD in one pass, in constant memory.

    The disk is rounded up to 2 MiB. Blocks of zeros are not allocated (dynamic) or left as holes
    (fixed). ``unique_id`` None derives the identity from the content, ``timestamp`` (Unix seconds)
    None takes SOURCE_DATE_EPOCH or now: with those given, equal input makes equal bytes. Raises
    SpecError, ExistsError, HostError; leaves nothing half written.
    """
    seconds = _vhd_time(timestamp)
    with opened(src_raw) as src_fd:
        refuse_same(src_raw, dst)
        virtual_size_of(size_of(src_fd))
        with replacing(dst, overwrite=overwrite) as part, writable(part) as dst_fd:
            _fill(src_fd, dst_fd, subformat, unique_id, seconds, progress)


def fill_vhd(src_raw: Path, dst: Path, *, subformat: Subformat, unique_id: UUID) -> None:
    """As :func:`write_vhd`, into ``dst``, a file that is there and empty."""
    with opened(src_raw) as src_fd, writable(dst) as dst_fd:
        _fill(src_fd, dst_fd, subformat, unique_id, _vhd_time(None), None)


def _fill(
    src_fd: int,
    dst_fd: int,
    subformat: Subformat,
    unique_id: UUID | None,
    seconds: int,
    progress: Progress | None,
) -> None:
    size = virtual_size_of(size_of(src_fd))
    content = _Content(src_fd, progress, identify=unique_id is None)
    if subformat == "fixed":
        end = _write_fixed(content, dst_fd, size)
    else:
        end = _write_dynamic(content, dst_fd, size)
    footer = form.Footer(
        form.FIXED if subformat == "fixed" else form.DYNAMIC,
        size,
        seconds,
        unique_id or content.identity(size),
    ).pack()
    write_exactly(dst_fd, footer, end)
    if subformat == "dynamic":
        write_exactly(dst_fd, footer, 0)


class _Content:
    """The nonzero blocks of a raw image, digested on the way when an identity is wanted."""

    def __init__(self, fd: int, progress: Progress | None, *, identify: bool) -> None:
        self._fd = fd
        self._progress = progress
        self._digest = hashlib.sha256() if identify else None

    def __iter__(self) -> Iterator[tuple[int, bytearray]]:
        for offset, block in data_blocks(self._fd, block=form.BLOCK_SIZE, progress=self._progress):
            if self._digest is not None:
                self._digest.update(offset.to_bytes(8, "big"))
                self._digest.update(block)
            yield offset, block

    def identity(self, size: int) -> UUID:
        """A UUID that stands for the size and content read so far."""
        digest = self._digest or hashlib.sha256()
        digest.update(size.to_bytes(8, "big"))
        return UUID(bytes=digest.digest()[:16], version=5)


def _write_fixed(content: _Content, fd: int, size: int) -> int:
    for offset, block in content:
        write_sparse(fd, block, offset)
    os.ftruncate(fd, size)
    return size


def _write_dynamic(content: _Content, fd: int, size: int) -> int:
    """Write everything but the footers; returns where the file's footer goes (bytes)."""
    entries = size // form.BLOCK_SIZE
    table = array("I", [form.UNALLOCATED]) * entries
    batmap = bytearray(form.round_up(-(-entries // 8), form.SECTOR))
    batmap_offset = _TABLE_OFFSET + form.round_up(4 * entries, form.SECTOR) + form.SECTOR
    end = batmap_offset + len(batmap)
    for offset, block in content:
        index = offset // form.BLOCK_SIZE
        # The bitmap takes the sector before a 4 KiB boundary, so that the data starts on one.
        bitmap = form.round_up(end + form.SECTOR, _ALIGN) - form.SECTOR
        table[index] = bitmap // form.SECTOR
        batmap[index >> 3] |= 0x80 >> (index & 7)
        write_exactly(fd, _FULL_BITMAP, bitmap)
        write_sparse(fd, block, bitmap + form.SECTOR)
        end = bitmap + form.SECTOR + form.BLOCK_SIZE
    if sys.byteorder == "little":
        table.byteswap()
    header = form.Header(_TABLE_OFFSET, entries).pack()
    write_exactly(fd, header + table.tobytes(), form.FOOTER_SIZE)
    write_exactly(
        fd, form.pack_batmap_header(batmap_offset, bytes(batmap)), batmap_offset - form.SECTOR
    )
    write_exactly(fd, batmap, batmap_offset)
    return end


def _vhd_time(timestamp: int | None) -> int:
    """Seconds since 2000 for the footer; a time before 2000 becomes 2000."""
    if timestamp is None:
        epoch = source_date_epoch(os.environ)
        timestamp = int(time.time()) if epoch is None else epoch
    seconds = max(timestamp - form.EPOCH, 0)
    if seconds > 0xFFFFFFFF:
        raise SpecError(f"the time {timestamp} does not fit a VHD, which ends in 2136")
    return seconds


def read_vhd(
    src: Path, dst_raw: Path, *, progress: Progress | None = None, overwrite: bool = False
) -> None:
    """Write the content of the VHD ``src`` as a sparse raw image of its exact size.

    Bounded memory whatever the file claims. Raises ImageError for a damaged, differencing or
    hostile VHD, ExistsError, SpecError, HostError; leaves nothing half written.
    """
    with opened(src) as src_fd:
        refuse_same(src, dst_raw)
        disk = VhdReader(src_fd, str(src))
        with replacing(dst_raw, overwrite=overwrite) as part, writable(part) as dst_fd:
            os.ftruncate(dst_fd, disk.footer.current_size)
            disk.copy_to(dst_fd, progress)
