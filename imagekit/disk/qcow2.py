"""qcow2 images: writing through qemu-img, and a strict reading of headers.

Source of the format: QEMU, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.disk import qemu_img
from imagekit.disk.extents import (
    Progress,
    opened,
    read_exactly,
    refuse_same,
    size_of,
)
from imagekit.errors import ImageError, SpecError
from imagekit.host.outfile import replacing

Compression = Literal["zlib", "zstd"]

MAGIC = b"QFI\xfb"
MAX_SIZE = 64 << 40
"""Bytes; four times what ext4 can hold. A larger claim is a mistake or an attack."""
_MAX_CLUSTERS = 1 << 27
"""qemu-img keeps two bytes per cluster of the file while it checks."""
_MAX_L1 = 32 << 20
_MAX_REFCOUNT_TABLE = 8 << 20
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_V2_LENGTH, _V3_LENGTH = 72, 104
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_EXT_END, _EXT_LUKS, _EXT_DATA_FILE = 0, 0x0537BE77, 0x44415441


@dataclass(frozen=True)
class Qcow2Header:
    """What matters of a header: ``size`` and ``cluster_size`` in bytes."""

    version: int
    size: int
    cluster_size: int
    snapshots: int
    compression: Compression
    extended_l2: bool


def write_qcow2(
    src_raw: Path,
    dst: Path,
    *,
    compression: Compression | None = None,
    cluster_size: int = 65536,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Write the raw image ``src_raw`` as qcow2 version 3; equal input makes equal bytes.

    ``cluster_size`` in bytes. zstd needs QEMU 5.1 or later to read. A size that is no multiple of
    512 is rounded up. Raises SpecError, ExistsError, HostError, ToolError; leaves nothing half
    written.
    """
    if cluster_size not in {1 << bits for bits in range(9, 22)}:
        raise SpecError(
            f"a qcow2 cluster of {cluster_size} bytes is not possible",
            hint="give a power of two from 512 to 2097152",
        )
    with opened(src_raw) as fd:
        size = size_of(fd)
    refuse_same(src_raw, dst)
    with replacing(dst, overwrite=overwrite) as part:
        qemu_img.convert(
            src_raw,
            part,
            source_format="raw",
            target_format="qcow2",
            options=write_options(compression, cluster_size),
            size_bytes=size,
            progress=progress,
        )


def write_options(compression: Compression | None, cluster_size: int = 65536) -> list[str]:
    """The options of ``qemu-img convert -O qcow2``; no -W, whose order of clusters varies."""
    options = f"compat=1.1,lazy_refcounts=off,cluster_size={cluster_size}"
    if compression is None:
        return ["-o", options]
    return ["-c", "-o", f"{options},compression_type={compression}"]


def read_header(path: Path) -> Qcow2Header:
    """Read the header of an untrusted image.

    Raises ImageError for anything damaged, unknown, or that reaches outside the file: backing
    file, external data file, encryption, unknown incompatible features.
    """
    with opened(path) as fd:
        return read_open_header(fd, str(path))


def read_open_header(fd: int, where: str) -> Qcow2Header:
    """The same of an image that is open; ``where`` names it in errors."""
    file_size = size_of(fd)
    raw = bytearray(min(file_size, 1 << 16))
    with memoryview(raw) as view:
        read_exactly(fd, view, 0)
    return parse_header(bytes(raw), file_size, where)


def parse_header(raw: bytes, file_size: int, where: str) -> Qcow2Header:
    """Read the header from the file's first 64 KiB; ``file_size`` in bytes. Raises ImageError."""
    if len(raw) < _V2_LENGTH or not raw.startswith(MAGIC):
        raise ImageError("is not a qcow2 image", where=where)
    (_, version, backing, backing_length, bits, size, crypt, l1_entries, l1, table) = (
        _HEADER.unpack_from(raw)[:10]
    )
    table_clusters, snapshots = _HEADER.unpack_from(raw)[10:12]
    if version not in (2, 3):
        raise ImageError(f"is qcow2 of the unknown version {version}", where=where)
    if backing or backing_length:
        raise ImageError(
            "has a backing file: its content is partly in another file",
            where=where,
            hint="flatten it where it comes from (qemu-img convert), and give the result",
        )
    if crypt:
        raise ImageError("is encrypted", where=where, hint="decrypt it first (qemu-img convert)")
    if not 9 <= bits <= 21:
        raise ImageError(f"claims an impossible cluster size of 2^{bits} bytes", where=where)
    cluster = 1 << bits
    features, compression, length = _features(raw, version, where)
    if size == 0 or size % 512 or size > MAX_SIZE:
        raise ImageError(f"claims an impossible disk size of {size} bytes", where=where)
    if file_size // cluster > _MAX_CLUSTERS:
        raise ImageError("has too many clusters to be checked", where=where)
    # A level 2 table of one cluster holds entries of 8 bytes, 16 with extended entries.
    reach = cluster * (cluster // (16 if features & _EXTENDED_L2 else 8))
    tables = (
        ("level 1 table", l1, l1_entries * 8, _MAX_L1, l1_entries >= -(-size // reach)),
        (
            "refcount table",
            table,
            table_clusters * cluster,
            _MAX_REFCOUNT_TABLE,
            table_clusters > 0,
        ),
    )
    for name, offset, extent, most, enough in tables:
        if not enough or extent > most:
            raise ImageError(f"its {name} does not fit its size", where=where)
        if offset % cluster or not cluster <= offset <= file_size - extent:
            raise ImageError(f"its {name} is outside the file", where=where)
    _check_extensions(raw[:cluster], length, where)
    return Qcow2Header(
        version, size, cluster, snapshots, compression, bool(features & _EXTENDED_L2)
    )


def _features(raw: bytes, version: int, where: str) -> tuple[int, Compression, int]:
    """Incompatible features, compression and header length of either version."""
    if version == 2:
        return 0, "zlib", _V2_LENGTH
    if len(raw) < _V3_LENGTH:
        raise ImageError("its qcow2 header is cut off", where=where)
    features, _, _, _, length = _V3.unpack_from(raw, _V2_LENGTH)
    if features & _DATA_FILE:
        raise ImageError("keeps its data in an external file", where=where)
    if features & (_DIRTY | _CORRUPT):
        raise ImageError(
            "is marked as " + ("corrupt" if features & _CORRUPT else "not properly closed"),
            where=where,
            hint="repair a copy of it with qemu-img check -f qcow2 -r all",
        )
    if features & ~(_COMPRESSION | _EXTENDED_L2):
        raise ImageError(f"needs unknown qcow2 features ({features:#x})", where=where)
    if length < _V3_LENGTH or length % 8 or length > len(raw):
        raise ImageError("its qcow2 header has an impossible length", where=where)
    kind = raw[_V3_LENGTH] if length > _V3_LENGTH else 0
    if kind > 1 or bool(kind) != bool(features & _COMPRESSION):
        raise ImageError("its qcow2 compression type is unknown", where=where)
    return features, "zstd" if kind else "zlib", length


def _check_extensions(raw: bytes, offset: int, where: str) -> None:
    while offset + 8 <= len(raw):
        kind, length = struct.unpack_from(">II", raw, offset)
        if kind == _EXT_END:
            return
        if kind == _EXT_DATA_FILE:
            raise ImageError("names an external data file", where=where)
        if kind == _EXT_LUKS:
            raise ImageError("is encrypted", where=where)
        offset += 8 + -(-length // 8) * 8
    raise ImageError("its qcow2 header extensions do not end", where=where)
