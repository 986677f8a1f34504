"""The structures of a VHD file.

Sources: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0; Xen's blktap,
include/vhd.h and vhd/lib/libvhd.c (batmap); QEMU, block/vpc.c (which creators it believes).
All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from imagekit.errors import ImageError
from imagekit.spec.derived import VHD_MAX_BYTES

SECTOR = 512
FOOTER_SIZE = 512
HEADER_SIZE = 1024
BLOCK_SIZE = 2 << 20
"""Bytes in a block of a VHD written here; what every Xen toolstack expects."""
MAX_SIZE = VHD_MAX_BYTES
"""Bytes; the limit of Hyper-V, XenServer and QEMU (0xff000000 sectors)."""

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
UNALLOCATED = 0xFFFFFFFF
EPOCH = 946684800
"""2000-01-01 00:00 UTC in Unix time; VHD timestamps count from here."""

CREATOR = b"tap\0"
"""Creator of Xen's blktap: QEMU takes the exact size from the footer of it, not the geometry."""
CREATOR_VERSION = 0x00010003

COOKIE = b"conectix"
_HEADER_COOKIE = b"cxsparse"
_BATMAP_COOKIE = b"tdbatmap"
_BATMAP_VERSION = 0x00010002
_FEATURES = 2
_FORMAT_VERSION = 0x00010000
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_BLOCK_SIZES = tuple(1 << shift for shift in range(19, 29))

_FOOTER = struct.Struct(">8sIIQI4sIIQQHBBII16sBB426x")
_FOOTER_SUM = 64
_HEADER = struct.Struct(">8sQQIIII16sI4x512s192s256x")
_HEADER_SUM = 36
_LOCATOR = struct.Struct(">4sII4xQ")
_BATMAP = struct.Struct(">8sQIIIB483x")


@dataclass(frozen=True)
class Footer:
    """A hard disk footer; sizes in bytes, ``timestamp`` in seconds since 2000-01-01."""

    disk_type: int
    current_size: int
    timestamp: int
    unique_id: UUID
    creator: bytes = CREATOR
    creator_version: int = CREATOR_VERSION

    def pack(self) -> bytes:
        """The 512 bytes of the footer."""
        raw = bytearray(
            _FOOTER.pack(
                COOKIE,
                _FEATURES,
                _FORMAT_VERSION,
                _NOWHERE if self.disk_type == FIXED else FOOTER_SIZE,
                self.timestamp,
                self.creator,
                self.creator_version,
                0,
                self.current_size,
                self.current_size,
                *geometry(self.current_size),
                self.disk_type,
                0,
                self.unique_id.bytes,
                0,
                0,
            )
        )
        return _with_checksum(raw, _FOOTER_SUM)


@dataclass(frozen=True)
class Locator:
    """Where a parent is, in one platform's words: ``data`` lies at byte ``offset`` of the file."""

    code: bytes
    data: bytes
    offset: int

    def pack(self) -> bytes:
        """The 24 bytes of the entry. The space is in bytes, as Virtual PC and blktap have it."""
        space = round_up(len(self.data), SECTOR)
        return _LOCATOR.pack(self.code, space, len(self.data), self.offset)


@dataclass(frozen=True)
class Parent:
    """The parent of a differencing disk: its footer's identity, its file's modification time in
    seconds since 2000, its name, and at most eight locators."""

    unique_id: UUID
    timestamp: int
    name: str
    locators: tuple[Locator, ...] = ()

    def pack(self) -> tuple[bytes, int, bytes, bytes]:
        """The four fields of the header; the name is cut at 255 UTF-16 units."""
        name = self.name.encode("utf-16-be")[:510]
        return (
            self.unique_id.bytes,
            self.timestamp,
            name,
            b"".join(locator.pack() for locator in self.locators[:8]),
        )


@dataclass(frozen=True)
class Header:
    """A dynamic disk header; offsets and sizes in bytes, ``entries`` of the block table.

    ``parent`` is what a differencing disk says of the file it stands on.
    """

    table_offset: int
    entries: int
    block_size: int = BLOCK_SIZE
    parent: Parent | None = None

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap that precedes each block."""
        return round_up(self.block_size // SECTOR // 8, SECTOR)

    def pack(self) -> bytes:
        """The 1024 bytes of the header."""
        raw = bytearray(
            _HEADER.pack(
                _HEADER_COOKIE,
                _NOWHERE,
                self.table_offset,
                _FORMAT_VERSION,
                self.entries,
                self.block_size,
                0,
                *(self.parent.pack() if self.parent else (bytes(16), 0, b"", b"")),
            )
        )
        return _with_checksum(raw, _HEADER_SUM)


def pack_batmap_header(offset: int, batmap: bytes) -> bytes:
    """The 512-byte header of ``batmap`` (whole sectors), which starts at byte ``offset``."""
    return _BATMAP.pack(
        _BATMAP_COOKIE, offset, len(batmap) // SECTOR, _BATMAP_VERSION, checksum(batmap), 0
    )


def parse_footer(raw: bytes, where: str, *, link: bool = False) -> tuple[Footer, int]:
    """Read a footer; also returns the offset of the dynamic header in bytes.

    Raises ImageError when it is damaged, of an unknown version, impossible, or differencing unless
    it is known to be a ``link`` of a chain.
    """
    if len(raw) != FOOTER_SIZE or not raw.startswith(COOKIE):
        raise ImageError("has no VHD footer in its last 512 bytes", where=where, hint=_WHOLE)
    _verify_checksum(raw, _FOOTER_SUM, "footer", where)
    (_, _, version, data_offset, timestamp, creator, creator_version, _, _, size) = _FOOTER.unpack(
        raw
    )[:10]
    disk_type, _, identity = _FOOTER.unpack(raw)[13:16]
    if version >> 16 != 1:
        raise ImageError(f"is a VHD of the unknown version {version:#x}", where=where)
    if disk_type == DIFFERENCING and not link:
        raise ImageError(
            "is a differencing VHD: most of its content is in another file, its parent",
            where=where,
            hint="coalesce the chain first, and give the result",
        )
    if disk_type not in (FIXED, DYNAMIC, DIFFERENCING):
        raise ImageError(f"is a VHD of the unknown type {disk_type}", where=where)
    if size == 0 or size % SECTOR or size > MAX_SIZE:
        raise ImageError(f"claims an impossible disk size of {size} bytes", where=where)
    footer = Footer(disk_type, size, timestamp, UUID(bytes=identity), creator, creator_version)
    return footer, data_offset


def parse_header(raw: bytes, where: str) -> Header:
    """Read a dynamic disk header. Raises ImageError when it is damaged or impossible."""
    if len(raw) != HEADER_SIZE or not raw.startswith(_HEADER_COOKIE):
        raise ImageError("has no VHD dynamic disk header", where=where, hint=_WHOLE)
    _verify_checksum(raw, _HEADER_SUM, "dynamic disk header", where)
    _, _, table_offset, version, entries, block_size, _, identity, timestamp, name, _ = (
        _HEADER.unpack(raw)
    )
    if version >> 16 != 1:
        raise ImageError(f"has a dynamic header of the unknown version {version:#x}", where=where)
    if block_size not in _BLOCK_SIZES:
        raise ImageError(f"claims an impossible block size of {block_size} bytes", where=where)
    parent = None
    if any(identity):
        text = name.decode("utf-16-be", "replace").partition("\0")[0]
        parent = Parent(UUID(bytes=identity), timestamp, text)
    return Header(table_offset, entries, block_size, parent)


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track of a disk of ``size`` bytes.

    The specification's appendix "CHS Calculation", step by step: its product is below the size as
    a rule, and XenServer's checker refuses a larger one.
    """
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    track, rows = 17, sectors // 17
    heads = max((rows + 1023) // 1024, 4)
    if rows >= heads * 1024 or heads > 16:
        track, heads, rows = 31, 16, sectors // 31
    if rows >= heads * 1024:
        track, heads, rows = 63, 16, sectors // 63
    return rows // heads, heads, track


def checksum(data: bytes | bytearray) -> int:
    """One's complement of the sum of all bytes, 32 bits."""
    return ~sum(data) & 0xFFFFFFFF


def round_up(value: int, unit: int) -> int:
    """``value`` rounded up to a multiple of ``unit``."""
    return -(-value // unit) * unit


_WHOLE = "the file may be cut off or be of another format; fetch it again"


def _with_checksum(raw: bytearray, offset: int) -> bytes:
    struct.pack_into(">I", raw, offset, checksum(raw))
    return bytes(raw)


def _verify_checksum(raw: bytes, offset: int, name: str, where: str) -> None:
    (claimed,) = struct.unpack_from(">I", raw, offset)
    if claimed != checksum(raw[:offset] + bytes(4) + raw[offset + 4 :]):
        raise ImageError(f"the checksum of its VHD {name} is wrong", where=where, hint=_WHOLE)
