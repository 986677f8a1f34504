"""A second opinion on VHD files, after `vhd-util check` of Xen's blktap (vhd/vhd-util-check.c).

Shares no code with imagekit. `complaints(path)` is empty for a file that XenServer's checker calls
valid; `disk_bytes(path)` reads the disk's content block by block.
"""

import os
import time
from pathlib import Path

SLACK_SECONDS = 30 * 60
SECTORS_4G = 0xFFFFFFFF


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "big")


def _sum_is_right(data: bytes, offset: int) -> bool:
    total = sum(data) - sum(data[offset : offset + 4])
    return _number(data, offset, 4) == (total ^ 0xFFFFFFFF)


def largest_geometry(size: int) -> tuple[int, int, int]:
    """vhd_chs() of libvhd.c: what the geometry field may hold at most."""
    sectors = min(size >> 9, 65535 * 16 * 255)
    if sectors > 65535 * 16 * 63:
        per_track, heads = 255, 16
        cylinder_heads = sectors // per_track
    else:
        per_track = 17
        cylinder_heads = sectors // per_track
        heads = max((cylinder_heads + 1023) // 1024, 4)
        if cylinder_heads >= heads * 1024 or heads > 16:
            per_track, heads = 31, 16
            cylinder_heads = sectors // per_track
        if cylinder_heads >= heads * 1024:
            per_track, heads = 63, 16
            cylinder_heads = sectors // per_track
    return cylinder_heads // heads, heads, per_track


def _footer_complaints(footer: bytes) -> list[str]:
    found = []
    if footer[:8] != b"conectix":
        return ["invalid cookie"]
    if not _sum_is_right(footer, 64):
        found.append("invalid footer checksum")
    features, kind = _number(footer, 8, 4), _number(footer, 60, 4)
    if not features & 2:
        found.append("invalid 'reserved' feature")
    if features & ~3:
        found.append("invalid extra features")
    if _number(footer, 12, 4) != 0x10000:
        found.append("invalid file format version")
    if kind not in (2, 3, 4):
        found.append("invalid type")
    if kind == 2 and _number(footer, 16, 8) != 2**64 - 1:
        found.append("invalid data offset")
    if _number(footer, 24, 4) > time.time() - 946684800 + SLACK_SECONDS:
        found.append("creation time in future")
    if footer[28:31] == b"tap" and _number(footer, 32, 4) > 0x10003:
        found.append("unsupported tap creator version")
    geometry = _number(footer, 56, 2), footer[58], footer[59]
    if largest_geometry(_number(footer, 48, 8)) < geometry:
        found.append("geometry too large")
    if footer[84] > 1 or footer[85] > 1 or any(footer[86:]):
        found.append("invalid 'saved', 'hidden' or 'reserved'")
    if not any(footer[68:84]):
        found.append("invalid (NULL) uuid")
    return found


def _header_complaints(header: bytes, end: int) -> list[str]:
    found = []
    if header[:8] != b"cxsparse":
        return ["invalid header cookie"]
    if not _sum_is_right(header, 36):
        found.append("invalid header checksum")
    if _number(header, 24, 4) != 0x10000:
        found.append("invalid header version")
    if _number(header, 8, 8) != 2**64 - 1:
        found.append("invalid header data offset")
    table, entries, size = (_number(header, o, n) for o, n in ((16, 8), (28, 4), (32, 4)))
    if table == 0 or table % 512 or table + 4 * entries > end:
        found.append("invalid table offset")
    if bin(size).count("1") != 1:
        found.append("invalid block size")
    if any(header[40:]):
        found.append("invalid non-null parent or reserved bits")
    return found


def _blocks(path: Path) -> tuple[bytes, dict[int, int], int, int]:
    """The header, block index to byte offset, block size, entries."""
    with path.open("rb") as file:
        file.seek(512)
        header = file.read(1024)
        entries = _number(header, 28, 4)
        file.seek(_number(header, 16, 8))
        table = file.read(4 * entries)
    sectors = {i: _number(table, 4 * i, 4) for i in range(entries)}
    used = {i: s * 512 for i, s in sectors.items() if s != SECTORS_4G}
    return header, used, _number(header, 32, 4), entries


def _batmap_complaints(path: Path, footer: bytes, header: bytes, used: dict[int, int]) -> list[str]:
    if footer[28:32] != b"tap\0":
        return []
    entries = _number(header, 28, 4)
    where = _number(header, 16, 8) + (4 * entries + 511) // 512 * 512
    with path.open("rb") as file:
        file.seek(where)
        head = file.read(512)
        if head[:8] != b"tdbatmap":
            return ["failed to get batmap header"]
        file.seek(_number(head, 8, 8))
        batmap = file.read(_number(head, 16, 4) * 512)
        found = []
        if _number(head, 24, 4) != (sum(batmap) ^ 0xFFFFFFFF):
            found.append("invalid batmap checksum")
        if len(batmap) * 8 < entries:
            found.append("batmap-BAT size mismatch")
        if used and min(used.values()) < _number(head, 8, 8) + len(batmap):
            found.append("a block overlaps the batmap")
        for index in range(entries):
            full = bool(batmap[index // 8] & (128 >> index % 8))
            if full and index not in used:
                found.append(f"batmap shows unallocated block {index} full")
            if full and index in used:
                file.seek(used[index])
                if file.read(512) != b"\xff" * 512:
                    found.append(f"batmap shows block {index} full, its bitmap does not")
    return found


def complaints(path: Path) -> list[str]:
    """Everything `vhd-util check` would refuse, and data that is not aligned to 4 KiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(512)
        file.seek(size - 512)
        footer = file.read(512)
    found = _footer_complaints(footer)
    virtual = _number(footer, 48, 8)
    if _number(footer, 60, 4) == 2:
        return found + (["size mismatch"] if virtual + 512 != size else [])
    if first != footer:
        found.append("primary and backup footer differ")
    if _number(footer, 16, 8) != 512:
        found.append("invalid data offset")
    header, used, block_size, entries = _blocks(path)
    found += _header_complaints(header, size - 512)
    if entries * block_size < virtual:
        found.append("block table too small")
    end = _number(header, 16, 8) + 4 * entries
    for index, offset in sorted(used.items(), key=lambda item: item[1]):
        if offset < end:
            found.append(f"block {index} overlaps what is before it")
        if (offset + 512) % 4096:
            found.append(f"the data of block {index} is not aligned")
        end = offset + 512 + block_size
    if end > size - 512:
        found.append("the last block is outside the file")
    return found + _batmap_complaints(path, footer, header, used)


def disk_bytes(path: Path) -> bytes:
    """The whole disk; only for small ones."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(size - 512)
        footer = file.read(512)
        virtual = _number(footer, 48, 8)
        if _number(footer, 60, 4) == 2:
            file.seek(0)
            return file.read(virtual)
        disk = bytearray(virtual)
        _, used, block_size, _ = _blocks(path)
        for index, offset in used.items():
            bitmap = os.pread(file.fileno(), block_size // 4096, offset)
            data = os.pread(file.fileno(), block_size, offset + 512)
            for sector in range(block_size // 512):
                if bitmap[sector // 8] & (128 >> sector % 8):
                    at = index * block_size + sector * 512
                    disk[at : at + 512] = data[sector * 512 : sector * 512 + 512]
    return bytes(disk[:virtual])
