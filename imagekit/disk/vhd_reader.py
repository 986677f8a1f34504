"""Reading VHD images that may be hostile: every claim is checked against the file first."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from imagekit.disk import vhd_format as form
from imagekit.disk.extents import (
    BLOCK,
    Progress,
    data_blocks,
    has_data,
    read_exactly,
    size_of,
    write_sparse,
)
from imagekit.errors import ImageError

_SECTOR_ZEROS = bytes(form.SECTOR)


class VhdReader:
    """An open VHD whose structure holds together; ``footer.current_size`` is the disk in bytes.

    Making one raises ImageError for anything that does not, and for a differencing one unless it is
    known to be a ``link`` of a chain. Memory stays below about 40 MiB.
    """

    def __init__(self, fd: int, where: str, *, link: bool = False) -> None:
        self._fd = fd
        self._where = where
        self._file_size = size_of(fd)
        if self._file_size < 2 * form.FOOTER_SIZE:
            raise ImageError("is too short for a VHD", where=where)
        raw = self._read(self._file_size - form.FOOTER_SIZE, form.FOOTER_SIZE)
        self.footer, data_offset = form.parse_footer(raw, where, link=link)
        self.header: form.Header | None = None
        self._table = array("I")
        if self.footer.disk_type == form.FIXED:
            self._check_fixed()
        else:
            if self._read(0, form.FOOTER_SIZE) != raw:
                raise ImageError("the two copies of its VHD footer differ", where=where)
            self._load(data_offset)

    @property
    def data_size(self) -> int:
        """Bytes of the disk that may be nonzero, whole blocks."""
        if self.header is None:
            return self.footer.current_size
        allocated = len(self._table) - self._table.count(form.UNALLOCATED)
        return min(allocated * self.header.block_size, self.footer.current_size)

    def copy_to(self, fd: int, progress: Progress | None = None) -> None:
        """Write the disk's content into an empty file of the disk's size."""
        size = self.footer.current_size
        blocks = (
            data_blocks(self._fd, limit=size, progress=progress)
            if self.header is None
            else self._blocks(self.header, progress)
        )
        for offset, content in blocks:
            write_sparse(fd, content, offset, size - offset)

    def written(self) -> Iterator[tuple[int, int, int]]:
        """(disk offset, length, file offset) in bytes of every run of sectors that a dynamic or
        differencing disk holds itself, zeros too."""
        if self.header is None:
            return
        width, size = self.header.block_size, self.footer.current_size
        for index, sector in enumerate(self._table):
            if sector == form.UNALLOCATED:
                continue
            at = sector * form.SECTOR
            bitmap = self._read(at, self.header.bitmap_size)
            for first, last in _runs(bitmap, width // form.SECTOR):
                start = index * width + first * form.SECTOR
                stop = min(index * width + last * form.SECTOR, size)
                if start < stop:
                    data = at + self.header.bitmap_size + first * form.SECTOR
                    yield start, stop - start, data

    def _check_fixed(self) -> None:
        expected = self.footer.current_size + form.FOOTER_SIZE
        if self._file_size != expected:
            raise ImageError(
                f"is a fixed VHD of {self._file_size} bytes where its footer asks for {expected}",
                where=self._where,
                hint="the file is cut off or was resized by something that ignores the footer",
            )

    def _load(self, data_offset: int) -> None:
        end = self._file_size - form.FOOTER_SIZE
        if not form.FOOTER_SIZE <= data_offset <= end - form.HEADER_SIZE:
            raise ImageError("its VHD dynamic header is outside the file", where=self._where)
        header = form.parse_header(self._read(data_offset, form.HEADER_SIZE), self._where)
        needed = -(-self.footer.current_size // header.block_size)
        if header.entries < needed:
            raise ImageError(
                f"its block table has {header.entries} entries, the disk needs {needed}",
                where=self._where,
            )
        offset, length = header.table_offset, 4 * needed
        if not form.FOOTER_SIZE <= offset <= end - length:
            raise ImageError("its VHD block table is outside the file", where=self._where)
        self._table = array("I")
        self._table.frombytes(self._read(offset, length))
        if sys.byteorder == "little":
            self._table.byteswap()
        self.header = header
        self._check_table(
            header,
            (
                (0, form.FOOTER_SIZE),
                (data_offset, data_offset + form.HEADER_SIZE),
                (offset, offset + length),
            ),
        )

    def _check_table(self, header: form.Header, taken: tuple[tuple[int, int], ...]) -> None:
        """No block outside the file, over the metadata or over another block."""
        length = (header.bitmap_size + header.block_size) // form.SECTOR
        last = (self._file_size - form.FOOTER_SIZE) // form.SECTOR - length
        if last < 0 and self.data_size == 0:
            return
        # Blocks that do not overlap start in different slots of their own length.
        slots = array("I", [form.UNALLOCATED]) * (max(last, 0) // length + 1)
        for index, sector in enumerate(self._table):
            if sector == form.UNALLOCATED:
                continue
            if sector > last:
                raise ImageError(f"its block {index} is outside the file", where=self._where)
            if slots[sector // length] != form.UNALLOCATED:
                raise ImageError(f"its block {index} overlaps another", where=self._where)
            slots[sector // length] = sector
            start = sector * form.SECTOR
            if any(start < b and a < start + length * form.SECTOR for a, b in taken):
                raise ImageError(f"its block {index} overlaps the metadata", where=self._where)
        before = form.UNALLOCATED
        for sector in slots:
            if form.UNALLOCATED not in (before, sector) and sector - before < length:
                raise ImageError(f"two blocks overlap at sector {sector}", where=self._where)
            before = sector

    def _blocks(
        self, header: form.Header, progress: Progress | None
    ) -> Iterator[tuple[int, bytearray]]:
        content = bytearray(min(header.block_size, BLOCK))
        total = self.footer.current_size
        with memoryview(content) as view:
            for index, sector in enumerate(self._table):
                if sector == form.UNALLOCATED:
                    continue
                start = sector * form.SECTOR
                bitmap = self._read(start, header.bitmap_size)
                for offset in range(0, header.block_size, len(content)):
                    position = start + header.bitmap_size + offset
                    if not has_data(self._fd, position, len(content)):
                        continue
                    read_exactly(self._fd, view, position)
                    _clear_unwritten(view, bitmap, offset // form.SECTOR)
                    yield index * header.block_size + offset, content
                if progress is not None:
                    progress(min((index + 1) * header.block_size, total), total)
        if progress is not None:
            progress(total, total)

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        with memoryview(data) as view:
            read_exactly(self._fd, view, offset)
        return bytes(data)


def _clear_unwritten(view: memoryview, bitmap: bytes, first: int) -> None:
    """Zero the sectors of ``view`` whose bit is clear: the specification says they were never
    written. ``first`` is the number of the view's first sector in the block."""
    count = len(view) // form.SECTOR
    mine = bitmap[first // 8 : (first + count) // 8]
    if mine.count(0xFF) == len(mine):
        return
    for sector in range(count):
        if not mine[sector >> 3] & (0x80 >> (sector & 7)):
            view[sector * form.SECTOR : (sector + 1) * form.SECTOR] = _SECTOR_ZEROS


def _runs(bitmap: bytes, sectors: int) -> Iterator[tuple[int, int]]:
    """(first, one past the last) of the runs of set bits, the highest bit of a byte first."""
    if bitmap.count(0xFF) * 8 >= sectors:
        yield 0, sectors
        return
    first = -1
    for sector in range(sectors):
        if bitmap[sector >> 3] & (0x80 >> (sector & 7)):
            first = sector if first < 0 else first
        elif first >= 0:
            yield first, sector
            first = -1
    if first >= 0:
        yield first, sectors
