"""A partition table whose last partition is made to reach the end of a larger disk.

Sources: UEFI specification 2.10, 5.2.1 (legacy and protective MBR), 5.3.2 (GPT header) and 5.3.3
(entries). Numbers are little-endian. Like our layouts, a whole MiB is left behind the last
partition of a GPT; the backup entries and header lie in it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from imagekit.errors import GuestError

SECTOR = 512
MIB = 1 << 20
HEAD_BYTES = MIB
"""Bytes from the start of a disk that :func:`grown_table` wants to see."""

_HEADER = struct.Struct("<8sIII4xQQQQ16sQIII")
_HEADER_SIZE = _HEADER.size
_GPT = b"EFI PART"
_MAX_ENTRIES = 1024
_MBR_ENTRIES = 446
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Grown:
    """``partition`` is the number of the one that grows, 0 for a disk without a table; ``writes``
    are (byte offset, content) to be made on the larger disk."""

    partition: int
    writes: tuple[tuple[int, bytes], ...]


def grown_table(head: bytes, old_size: int, new_size: int) -> Grown:
    """What to write on a disk that grew from ``old_size`` to ``new_size`` bytes.

    ``head`` is its first HEAD_BYTES. The partition that begins last is the one that grows. Raises
    GuestError for tables that are damaged or that cannot grow.
    """
    if len(head) < 2 * SECTOR or head[510:512] != b"\x55\xaa":
        return Grown(0, ())
    if head[SECTOR : SECTOR + 8] == _GPT:
        return _grown_gpt(head, old_size // SECTOR, new_size // SECTOR)
    if any(head[_MBR_ENTRIES + 16 * i + 4] == _PROTECTIVE for i in range(4)):
        raise GuestError("the protective MBR has no GPT behind it", hint="leave --size away")
    return _grown_mbr(head, new_size // SECTOR)


def last_partition(head: bytes, size: int) -> int:
    """Number of the partition that begins last on a disk of ``size`` bytes, 0 where that cannot be
    told."""
    try:
        return grown_table(head, size, 2 * size).partition
    except GuestError:
        return 0


def _grown_mbr(head: bytes, sectors: int) -> Grown:
    last, begins = -1, 0
    for index in range(4):
        kind, start, size = _mbr_entry(head, index)
        if kind and size and start > begins:
            last, begins = index, start
    if last < 0:
        # A boot sector of a file system looks like an MBR without partitions.
        return Grown(0, ())
    kind, start, size = _mbr_entry(head, last)
    if kind in _EXTENDED:
        raise GuestError("the last partition is an extended one, which does not grow", hint=_LARGER)
    wanted = min(sectors - start, 0xFFFFFFFF)
    if wanted < size:
        raise GuestError("the last partition ends behind the disk", hint=_LARGER)
    at = _MBR_ENTRIES + 16 * last + 12
    return Grown(last + 1, ((at, struct.pack("<I", wanted)),))


def _mbr_entry(head: bytes, index: int) -> tuple[int, int, int]:
    """Type, first sector and number of sectors of an MBR entry."""
    raw = head[_MBR_ENTRIES + 16 * index :][:16]
    start, size = struct.unpack_from("<II", raw, 8)
    return raw[4], start, size


def _grown_gpt(head: bytes, old: int, sectors: int) -> Grown:
    raw = head[SECTOR : 2 * SECTOR]
    (_, _, length, claimed, mine, _, first, _, guid, at, count, width, entries_crc) = (
        _HEADER.unpack_from(raw)
    )
    zeroed = raw[:16] + bytes(4) + raw[20:]
    if length != _HEADER_SIZE or mine != 1 or zlib.crc32(zeroed[:length]) != claimed:
        raise GuestError("the GPT header is damaged", hint=_LARGER)
    start, size = at * SECTOR, count * width
    inside = 2 * SECTOR <= start <= len(head) - size
    if width != 128 or not 1 <= count <= _MAX_ENTRIES or not inside:
        raise GuestError("the GPT has an entry array as nobody makes it", hint=_LARGER)
    entries = bytearray(head[start : start + size])
    if zlib.crc32(entries) != entries_crc:
        raise GuestError("the GPT's entries are damaged", hint=_LARGER)
    number, offset = _last_entry(entries)
    begins, ends = struct.unpack_from("<QQ", entries, offset + 32)
    room = -(-size // SECTOR)
    end = sectors - MIB // SECTOR - 1
    if not first <= begins <= ends < old or end < ends:
        raise GuestError("the last partition does not lie within its disk", hint=_LARGER)
    struct.pack_into("<Q", entries, offset + 40, end)
    backup, last_usable = sectors - 1, sectors - room - 2
    crc = zlib.crc32(entries)

    def header(own: int, other: int, table: int) -> bytes:
        fields = (_GPT, 0x00010000, _HEADER_SIZE, 0, own, other, first, last_usable, guid, table)
        made = bytearray(_HEADER.pack(*fields, count, width, crc))
        struct.pack_into("<I", made, 16, zlib.crc32(made))
        return bytes(made) + bytes(SECTOR - _HEADER_SIZE)

    second = backup - room
    writes = (
        *_protective(head, sectors),
        (SECTOR, header(1, backup, at)),
        (start, bytes(entries)),
        (second * SECTOR, bytes(entries) + bytes(room * SECTOR - size)),
        (backup * SECTOR, header(backup, 1, second)),
        *_old_backup(old, room, ends),
    )
    return Grown(number, writes)


def _old_backup(old: int, room: int, ends: int) -> tuple[tuple[int, bytes], ...]:
    """Zeros over the old backup, which lies in the middle of the partition now."""
    start = old - 1 - room
    return ((start * SECTOR, bytes((room + 1) * SECTOR)),) if ends < start else ()


def _protective(head: bytes, sectors: int) -> tuple[tuple[int, bytes], ...]:
    """The size in the protective MBR: the whole disk without its first sector."""
    for index in range(4):
        kind, start, _ = _mbr_entry(head, index)
        if kind == _PROTECTIVE and start == 1:
            at = _MBR_ENTRIES + 16 * index + 12
            return ((at, struct.pack("<I", min(sectors - 1, 0xFFFFFFFF))),)
    return ()


def _last_entry(entries: bytearray) -> tuple[int, int]:
    """Number and offset of the partition that begins last; raises GuestError without any."""
    used = [o for o in range(0, len(entries), 128) if any(entries[o : o + 16])]
    if not used:
        raise GuestError("the GPT has no partition", hint=_LARGER)
    offset = max(used, key=lambda o: struct.unpack_from("<Q", entries, o + 32)[0])
    return offset // 128 + 1, offset


_LARGER = "leave --size away, or build the image larger"
