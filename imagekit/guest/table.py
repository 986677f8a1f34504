"""Partition tables, read from a few sectors: GPT (UEFI 2.10, chapter 5) and MBR.

libguestfs answers the same questions by running sgdisk and parted once for each field, which takes
seconds under software emulation.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

SECTOR = 512
MAX_ENTRIES = 128
MAX_LOGICAL = 60
_GPT = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)

ReadSectors = Callable[[int, int], bytes]
"""(first sector, count) -> bytes; shorter at the end of the disk."""


@dataclass(frozen=True)
class TableEntry:
    """A partition as its table has it; ``start`` and ``size`` in bytes, ``type`` GUID or 0xNN."""

    number: int
    start: int
    size: int
    type: str
    name: str | None
    bootable: bool
    part_uuid: str | None


class UnreadableTable(Exception):
    """The table is damaged or of a kind not read here."""


def read_table(read: ReadSectors) -> tuple[str, list[TableEntry]]:
    """("gpt", "mbr" or "none", entries); raises UnreadableTable."""
    first = read(0, 1)
    if len(first) < SECTOR or first[510:] != b"\x55\xaa":
        return "none", []
    records = [_record(first, 446 + 16 * index) for index in range(4)]
    if any(kind == _GPT for kind, *_ in records):
        return "gpt", _gpt(read)
    if not all(status in (0, 0x80) for *_, status in records):
        return "none", []  # boot code of a file system, not a table
    found = [_entry(n, r) for n, r in enumerate(records, 1) if r[0] and r[2]]
    for kind, start, _count, _status in records:
        if kind in _EXTENDED:
            found += _logical(read, start)
    return ("mbr", found) if found else ("none", [])


def _gpt(read: ReadSectors) -> list[TableEntry]:
    header = read(1, 1)
    if len(header) < SECTOR or header[:8] != b"EFI PART":
        raise UnreadableTable("no GPT header")
    (length, crc) = struct.unpack_from("<II", header, 12)
    if not 92 <= length <= SECTOR:
        raise UnreadableTable("GPT header length")
    plain = header[:16] + bytes(4) + header[20:length]
    if zlib.crc32(plain) != crc:
        raise UnreadableTable("GPT header checksum")
    (lba, count, size) = struct.unpack_from("<QII", header, 72)
    if size not in (128, 256, 512) or not 0 < count <= MAX_ENTRIES or lba > 1 << 40:
        raise UnreadableTable("GPT entries")
    data = read(lba, -(-count * size // SECTOR))[: count * size]
    if len(data) != count * size or zlib.crc32(data) != struct.unpack_from("<I", header, 88)[0]:
        raise UnreadableTable("GPT entries checksum")
    entries = []
    for index in range(count):
        entry = data[index * size : index * size + 128]
        (first, last, flags) = struct.unpack_from("<QQQ", entry, 32)
        if not any(entry[:16]) or last < first:
            continue
        name = entry[56:128].decode("utf-16-le", "replace").partition("\0")[0]
        entries.append(
            TableEntry(
                index + 1,
                first * SECTOR,
                (last - first + 1) * SECTOR,
                str(UUID(bytes_le=entry[:16])).upper(),
                name or None,
                bool(flags & 4),  # legacy BIOS bootable
                str(UUID(bytes_le=entry[16:32])),
            )
        )
    return entries


def _record(sector: bytes, offset: int) -> tuple[int, int, int, int]:
    status, kind, start, count = struct.unpack_from("<B3xB3xII", sector, offset)
    return kind, start, count, status


def _entry(number: int, record: tuple[int, int, int, int], base: int = 0) -> TableEntry:
    kind, start, count, status = record
    place = (base + start) * SECTOR
    bootable = status == 0x80
    return TableEntry(number, place, count * SECTOR, f"0x{kind:02x}", None, bootable, None)


def _logical(read: ReadSectors, extended: int) -> list[TableEntry]:
    """The chain of logical partitions; a loop or a cut ends it."""
    found: list[TableEntry] = []
    at, seen = extended, set()
    while at not in seen and len(found) < MAX_LOGICAL:
        seen.add(at)
        sector = read(at, 1)
        if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
            break
        record, following = _record(sector, 446), _record(sector, 462)
        if record[0] and record[2]:
            found.append(_entry(5 + len(found), record, at))
        if following[0] not in _EXTENDED or not following[1]:
            break
        at = extended + following[1]
    return found
