"""Chains of VHDs: a differencing disk that holds what changed, and the disk it stands on.

Sources: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (Parent Unicode Name, Parent
Locator Entry, sector bitmaps of differencing disks); Xen's blktap, vhd/lib/libvhd.c (which locators
it writes: MacX, W2ku, W2ru, and the parent's modification time).
"""

from __future__ import annotations

import os
import sys
import urllib.parse
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from imagekit.disk import qemu_img
from imagekit.disk import vhd_format as form
from imagekit.disk.extents import (
    BLOCK,
    Change,
    opened,
    read_exactly,
    writable,
    write_exactly,
    write_sparse,
)
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import ImageError, SpecError
from imagekit.host.outfile import replacing

MAX_LINKS = 30
"""Disks of a chain; vhd-util and XenServer end at 30."""

_ALIGN = 4096
_TABLE_OFFSET = form.FOOTER_SIZE + form.HEADER_SIZE


def write_child(
    child: Path,
    parent: Path,
    changes: Sequence[Change],
    content: Path,
    *,
    unique_id: UUID | None = None,
    timestamp: int = 0,
) -> None:
    """Write the differencing VHD ``child`` on ``parent``; ``changes`` in order, from ``content``.

    The parent is named by its path relative to the child, and absolutely; from now on it must not
    change. ``unique_id`` None makes one up; ``timestamp`` is in seconds since 2000. Raises
    ImageError for a parent that is no VHD, SpecError, ExistsError, HostError.
    """
    with opened(parent) as fd:
        disk = VhdReader(fd, str(parent), link=True)
        modified = max(int(os.fstat(fd).st_mtime) - form.EPOCH, 0) & 0xFFFFFFFF
    size = disk.footer.current_size
    entries = -(-size // form.BLOCK_SIZE)
    batmap = form.round_up(-(-entries // 8), form.SECTOR)
    batmap_offset = _TABLE_OFFSET + form.round_up(4 * entries, form.SECTOR) + form.SECTOR
    locators = tuple(_locators(child.absolute(), parent.absolute(), batmap_offset + batmap))
    end = max(x.offset + form.round_up(len(x.data), form.SECTOR) for x in locators)
    claim = form.Parent(disk.footer.unique_id, modified, parent.name, locators)
    footer = form.Footer(form.DIFFERENCING, size, timestamp, unique_id or uuid4()).pack()
    with (
        opened(content) as src,
        replacing(child) as part,
        writable(part) as dst,
    ):
        table, end = _write_blocks(dst, src, changes, entries, end)
        header = form.Header(_TABLE_OFFSET, entries, parent=claim).pack()
        write_exactly(dst, footer + header + table, 0)
        # No block is known to be whole: a clear bit sends readers to the block's own bitmap.
        empty = bytes(batmap)
        batmap_header = form.pack_batmap_header(batmap_offset, empty)
        write_exactly(dst, batmap_header + empty, batmap_offset - form.SECTOR)
        for locator in locators:
            write_exactly(dst, locator.data, locator.offset)
        write_exactly(dst, footer, end)


def _write_blocks(
    dst: int, src: int, changes: Sequence[Change], entries: int, end: int
) -> tuple[bytes, int]:
    """Write bitmaps and data behind ``end``; returns the block table and the end of the data."""
    table = array("I", [form.UNALLOCATED]) * entries
    bitmaps: dict[int, bytearray] = {}
    for change in changes:
        for index, start, length in _pieces(change):
            if not 0 <= index < entries:
                raise SpecError("a change lies outside the parent's disk")
            if index not in bitmaps:
                # The bitmap takes the sector before a 4 KiB boundary, the data starts on it.
                place = form.round_up(end + form.SECTOR, _ALIGN) - form.SECTOR
                table[index] = place // form.SECTOR
                bitmaps[index] = bytearray(form.SECTOR)
                end = place + form.SECTOR + form.BLOCK_SIZE
            _mark(bitmaps[index], start, length)
            if change.source is not None:
                at = table[index] * form.SECTOR + form.SECTOR + start
                source = change.source + index * form.BLOCK_SIZE + start - change.offset
                content = bytearray(length)
                with memoryview(content) as view:
                    read_exactly(src, view, source)
                write_sparse(dst, content, at)
    for index, bitmap in bitmaps.items():
        write_exactly(dst, bitmap, table[index] * form.SECTOR)
    if sys.byteorder == "little":
        table.byteswap()
    return table.tobytes(), end


def _pieces(change: Change) -> Iterator[tuple[int, int, int]]:
    """(block, start in it, length) of a change, in bytes."""
    offset, stop = change.offset, change.offset + change.length
    if offset % form.SECTOR or stop % form.SECTOR:
        raise SpecError("a change is no whole number of sectors")
    while offset < stop:
        index, start = divmod(offset, form.BLOCK_SIZE)
        length = min(form.BLOCK_SIZE - start, stop - offset)
        yield index, start, length
        offset += length


def _mark(bitmap: bytearray, start: int, length: int) -> None:
    for sector in range(start // form.SECTOR, (start + length) // form.SECTOR):
        bitmap[sector >> 3] |= 0x80 >> (sector & 7)


def _locators(child: Path, parent: Path, offset: int) -> Iterator[form.Locator]:
    """The parent's place for every reader: a file URL, and Windows names in UTF-16LE."""
    relative = os.path.relpath(parent, child.parent)
    if not relative.startswith("."):
        relative = f"./{relative}"
    words = (
        (b"MacX", ("file://" + urllib.parse.quote(relative)).encode()),
        (b"W2ku", str(parent).replace("/", "\\").encode("utf-16-le")),
        (b"W2ru", relative.replace("/", "\\").encode("utf-16-le")),
    )
    for code, data in words:
        yield form.Locator(code, data, offset)
        offset += form.round_up(len(data), form.SECTOR)


def from_overlay(overlay: Path, parent: Path, child: Path) -> None:
    """Write what the qcow2 ``overlay`` of the VHD ``parent`` holds as the differencing ``child``.

    ``overlay`` must be our own and uncompressed. Raises ImageError, ToolError.
    """
    write_child(child, parent, qemu_img.changes(overlay, parent, "vhd"), overlay)


def open_chain(fds: Sequence[int], chain: Sequence[Path]) -> list[VhdReader]:
    """The disks of a chain, the leaf first and its base last, as open files ``fds``.

    Names inside the files are not followed: each must be the parent that the one before names by
    its identity. Raises ImageError.
    """
    disks = [
        VhdReader(fd, str(path), link=path is not chain[-1])
        for fd, path in zip(fds, chain, strict=True)
    ]
    for child, parent, path in zip(disks, disks[1:], chain, strict=False):
        claim = child.header.parent if child.header else None
        if child.footer.disk_type != form.DIFFERENCING or claim is None:
            raise ImageError("is no differencing VHD", where=str(path))
        if claim.unique_id != parent.footer.unique_id:
            raise ImageError("has another disk as its parent", where=str(path))
    if any(d.footer.current_size > disks[0].footer.current_size for d in disks):
        raise ImageError("is smaller than its parent", where=str(chain[0]))
    return disks


def copy_chain(fds: Sequence[int], chain: Sequence[Path], target: int) -> None:
    """Write what a guest sees of a chain (:func:`open_chain`) into the empty open file ``target``.

    Raises ImageError, HostError.
    """
    disks = open_chain(fds, chain)
    os.ftruncate(target, disks[0].footer.current_size)
    disks[-1].copy_to(target)
    for fd, disk in zip(reversed(fds[:-1]), reversed(disks[:-1]), strict=True):
        _apply(fd, disk, target)


def _apply(fd: int, disk: VhdReader, dst: int) -> None:
    buffer = bytearray(BLOCK)
    with memoryview(buffer) as view:
        for offset, length, at in disk.written():
            for done in range(0, length, BLOCK):
                piece = view[: min(BLOCK, length - done)]
                read_exactly(fd, piece, at + done)
                write_exactly(dst, piece, offset + done)
