"""What a disk image is and how large, for images nobody vouches for.

A guest can write any header into its own disk, so the format is what the user or the manifest
says, and raw is never guessed (CVE-2024-32498, CVE-2024-44082 are what happens otherwise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.disk import qcow2
from imagekit.disk import vhd_format as form
from imagekit.disk.extents import opened, read_exactly, size_of
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import ImageError, SpecError

FORMATS = ("raw", "qcow2", "vhd")

_UNSUPPORTED = (
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"QED\0", "QED"),
)


@dataclass(frozen=True)
class ImageInfo:
    """A disk image: ``virtual_size`` is the disk in bytes; a backing file is never accepted."""

    path: Path
    format: str
    virtual_size: int
    backing_file: None = None
    details: Mapping[str, str | int | bool] = field(default_factory=dict)


def check_format(name: str) -> str:
    """``name`` if it is a format known here; raises SpecError otherwise."""
    if name not in FORMATS:
        raise SpecError(
            f"{name!r} is not a disk format known here", hint="use one of " + ", ".join(FORMATS)
        )
    return name


def probe(path: Path, format: str) -> ImageInfo:
    """Read ``path`` as ``format`` (raw, qcow2, vhd) and nothing else.

    Raises ImageError when it is damaged, hostile, cut off or depends on another file, SpecError for
    an unknown format or a missing file. In this process: images of strangers are for
    :mod:`imagekit.disk.reading`.
    """
    check_format(format)
    with opened(path) as fd:
        return probe_open(fd, path, format)


def probe_open(fd: int, path: Path, format: str) -> ImageInfo:
    """As :func:`probe`, of the open file ``fd``; ``path`` names it in the result and in errors."""
    if format == "qcow2":
        header = qcow2.read_open_header(fd, str(path))
        return ImageInfo(
            path,
            format,
            header.size,
            details={
                "version": header.version,
                "cluster_size": header.cluster_size,
                "compression": header.compression,
                "snapshots": header.snapshots,
                "extended_l2": header.extended_l2,
            },
        )
    if format == "vhd":
        return _vhd_info(path, VhdReader(fd, str(path)))
    size = size_of(fd)
    if size == 0:
        raise ImageError("is empty, not a disk", where=str(path))
    return ImageInfo(path, format, size)


def _vhd_info(path: Path, disk: VhdReader) -> ImageInfo:
    details: dict[str, str | int | bool] = {
        "subformat": "fixed" if disk.header is None else "dynamic",
        "unique_id": str(disk.footer.unique_id),
        "timestamp": disk.footer.timestamp + form.EPOCH,
        "creator": disk.footer.creator.decode("ascii", "backslashreplace").rstrip("\0 "),
        "data_size": disk.data_size,
    }
    if disk.header is not None:
        details["block_size"] = disk.header.block_size
    return ImageInfo(path, "vhd", disk.footer.current_size, details=details)


def detect(path: Path) -> str:
    """``qcow2`` or ``vhd`` by magic number; raw has none and is never guessed.

    Raises ImageError for a format that is recognised but not read here (VMDK, VHDX, VDI, QED),
    SpecError when nothing is recognised.
    """
    with opened(path) as fd:
        return detect_open(fd, path)


def detect_open(fd: int, path: Path) -> str:
    """As :func:`detect`, of the open file ``fd``; ``path`` names it in errors."""
    size = size_of(fd)
    head = _piece(fd, 0, min(size, 512))
    tail = _piece(fd, size - 512, 512) if size >= 512 else b""
    if head.startswith(qcow2.MAGIC):
        return "qcow2"
    for offset, magic, name in _UNSUPPORTED:
        if head.startswith(magic, offset):
            raise ImageError(
                f"is a {name} image, which is not read here",
                where=str(path),
                hint="convert it to qcow2 with qemu-img where you trust it",
            )
    if head.startswith(form.COOKIE) or tail.startswith(form.COOKIE):
        return "vhd"
    raise SpecError(
        "its format cannot be detected, and raw is never guessed",
        where=str(path),
        hint="say what it is: --from raw",
    )


def _piece(fd: int, offset: int, length: int) -> bytes:
    data = bytearray(length)
    with memoryview(data) as view:
        read_exactly(fd, view, offset)
    return bytes(data)
