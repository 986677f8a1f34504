"""A volume group on one physical volume, written as LVM2 does, without LVM2 or device-mapper.

Sources, all of LVM2: lib/label/label.h (the label), lib/format_text/layout.h (headers of physical
volume and metadata area), lib/format_text/text_label.c and format-text.c (where they lie),
lib/format_text/export.c and flags.c (the text), lib/misc/crc.h and crc.c (checksums), lib/id/id.c
(identifiers), lvmconfig(8) --type default (sizes). Checked against the bytes of lvm2 2.03.16.
"""

from __future__ import annotations

import string
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.volume import check_group, check_volume
from imagekit.errors import SpecError

SECTOR = 512
EXTENT = 4 << 20
"""The default physical extent, bytes (DEFAULT_EXTENT_SIZE, 4096 KiB)."""
DATA_START = 1 << 20
"""Where the first extent begins, bytes: devices/default_data_alignment is 1 MiB."""
IDENTIFIER_BITS = 190
"""Bits that fill an identifier: 62 to the power of 32 is a little more."""

_LABEL_AT = SECTOR  # pvcreate(8): label sector 1 of 0 to 3
_LABEL_HEADER = 32  # sizeof(struct label_header), where the physical volume's header follows
_LABEL_SUMMED = 20  # offsetof(struct label_header, offset_xl), from which the sum is taken
_AREA_AT = 4096  # the metadata area: LABEL_SCAN_SIZE, rounded up to a page
_AREA_BYTES = DATA_START - _AREA_AT
_AREA_HEADER = 512  # MDA_HEADER_SIZE
_AREA_MAGIC = b" LVM2 x[5A%r0N*>"  # FMTT_MAGIC
_AREA_VERSION = 1  # FMTT_VERSION
_EXTENSION_VERSION = 2  # PV_HEADER_EXTENSION_VSN
_IN_USE = 1  # PV_EXT_USED: the volume belongs to a group
_NO_LOCATION = bytes(16)  # an all-zero struct disk_locn ends a list
_CRC_SEED = 0xF597A6CF  # INITIAL_CRC
_ALPHABET = string.digits + string.ascii_lowercase + string.ascii_uppercase  # _c of id.c, less "!#"
_GROUPS = (6, 4, 4, 4, 4, 4, 6)  # _group_size of id_write_format()


def identifier(number: int) -> str:
    """The 32 characters of an LVM identifier for ``number``, below 2**IDENTIFIER_BITS."""
    digits = []
    for _ in range(32):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def dashed(plain: str) -> str:
    """An identifier as LVM prints it, with dashes."""
    parts = []
    for size in _GROUPS:
        parts.append(plain[:size])
        plain = plain[size:]
    return "-".join(parts)


def extents_of(device_bytes: int) -> int:
    """How many extents a physical volume of ``device_bytes`` has."""
    return max(device_bytes - DATA_START, 0) // EXTENT


def _check_length(group: str, volume: str) -> None:
    # vg_validate() of lib/metadata/metadata.c (NAME_LEN 128), and DM_NAME_LEN of linux/dm-ioctl.h:
    # device-mapper's name has each hyphen twice.
    mapped = f"{group}/{volume}".replace("-", "--")
    if len(group) + len(volume) + 3 >= 128 or len(mapped) >= 128:
        raise ValueError(f"{group}/{volume} is too long a name")


@dataclass(frozen=True)
class LogicalVolume:
    """A linear volume of ``extents``; ``uuid`` is an identifier of 32 characters."""

    name: str
    uuid: str
    extents: int

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.extents * EXTENT


@dataclass(frozen=True)
class VolumeGroup:
    """A group on one physical volume of ``device_bytes``, its volumes one behind the other.

    ``device`` is what LVM shows as long as it has not found the volume; ``created`` is in seconds
    since 1970. Raises SpecError for names that LVM refuses, and volumes that do not fit.
    """

    name: str
    uuid: str
    physical_uuid: str
    device: str
    device_bytes: int
    created: int
    volumes: tuple[LogicalVolume, ...]

    def __post_init__(self) -> None:
        names = [volume.name for volume in self.volumes]
        try:
            check_group(self.name)
            for name in names:
                check_volume(name)
                _check_length(self.name, name)
        except ValueError as error:
            raise SpecError(str(error), hint="see lvm(8), VALID NAMES") from None
        if len(set(names)) != len(names):
            raise SpecError(f"two logical volumes of {self.name} have one name")
        room, wanted = extents_of(self.device_bytes), sum(v.extents for v in self.volumes)
        if any(volume.extents < 1 for volume in self.volumes) or wanted > room:
            raise SpecError(
                f"the logical volumes of {self.name} need {wanted} extents of {EXTENT >> 20} MiB, "
                f"each at least one, and the physical volume has {room}",
                hint="make disk.size larger",
            )

    def first_extent(self, name: str) -> int:
        """The extent at which the volume ``name`` begins."""
        names = [volume.name for volume in self.volumes]
        return sum(volume.extents for volume in self.volumes[: names.index(name)])

    def start(self, name: str) -> int:
        """Where the volume ``name`` begins, bytes from the start of the physical volume."""
        return DATA_START + self.first_extent(name) * EXTENT

    def text(self) -> str:
        """The metadata, as vgcfgbackup(8) and ``pvck --dump metadata`` show it."""
        volumes = "\n".join(self._volume_text(volume) for volume in self.volumes)
        return (
            f"{self.name} {{\n"
            f'id = "{dashed(self.uuid)}"\n'
            "seqno = 1\n"
            'format = "lvm2"\n'
            'status = ["RESIZEABLE", "READ", "WRITE"]\n'
            "flags = []\n"
            f"extent_size = {EXTENT // SECTOR}\n"
            "max_lv = 0\n"
            "max_pv = 0\n"
            "metadata_copies = 0\n"
            "\nphysical_volumes {\n\n"
            "pv0 {\n"
            f'id = "{dashed(self.physical_uuid)}"\n'
            f'device = "{self.device}"\n\n'
            'status = ["ALLOCATABLE"]\n'
            "flags = []\n"
            f"dev_size = {self.device_bytes // SECTOR}\n"
            f"pe_start = {DATA_START // SECTOR}\n"
            f"pe_count = {extents_of(self.device_bytes)}\n"
            "}\n}\n\n" + (f"logical_volumes {{\n\n{volumes}}}\n\n" if volumes else "\n") + "}\n"
            "# Generated by imagekit\n\n"
            'contents = "Text Format Volume Group"\n'
            "version = 1\n\n"
            'description = "Written by imagekit"\n\n'
            'creation_host = "imagekit"\n'
            f"creation_time = {self.created}\n\n"
        )

    def _volume_text(self, volume: LogicalVolume) -> str:
        return (
            f"{volume.name} {{\n"
            f'id = "{dashed(volume.uuid)}"\n'
            'status = ["READ", "WRITE", "VISIBLE"]\n'
            "flags = []\n"
            f"creation_time = {self.created}\n"
            'creation_host = "imagekit"\n'
            "segment_count = 1\n"
            "\nsegment1 {\n"
            "start_extent = 0\n"
            f"extent_count = {volume.extents}\n\n"
            'type = "striped"\n'
            "stripe_count = 1\n"
            "\nstripes = [\n"
            f'"pv0", {self.first_extent(volume.name)}\n'
            "]\n}\n}\n"
        )


def write_group(group: VolumeGroup, image: Path, start: int) -> None:
    """Make the physical volume that begins at byte ``start`` of ``image``, which is zeros there.

    Raises SpecError when the metadata is larger than LVM takes it, OSError.
    """
    # The length, and so the checksum, holds the zero byte that ends the text (text_vg_export_raw).
    text = group.text().encode() + b"\0"
    most = (_AREA_BYTES - _AREA_HEADER) // 2 - SECTOR  # max_size of _vg_write_raw()
    if len(text) > most:
        raise SpecError(
            f"the metadata of {group.name} has {len(text)} bytes, and LVM keeps {most}",
            hint="fewer logical volumes",
        )
    with image.open("r+b") as disk:
        disk.seek(start + _LABEL_AT)
        disk.write(_label(group))
        disk.seek(start + _AREA_AT)
        disk.write(_area_header(text) + text)


def _label(group: VolumeGroup) -> bytes:
    physical = struct.pack("<32sQ", group.physical_uuid.encode(), group.device_bytes)
    # One data area, whose size 0 means up to the end, then one metadata area, no boot loader's.
    physical += struct.pack("<QQ", DATA_START, 0) + _NO_LOCATION
    physical += struct.pack("<QQ", _AREA_AT, _AREA_BYTES) + _NO_LOCATION
    physical += struct.pack("<II", _EXTENSION_VERSION, _IN_USE) + _NO_LOCATION
    head = struct.pack("<8sQII8s", b"LABELONE", _LABEL_AT // SECTOR, 0, _LABEL_HEADER, b"LVM2 001")
    sector = bytearray((head + physical).ljust(SECTOR, b"\0"))
    struct.pack_into("<I", sector, _LABEL_SUMMED - 4, _checksum(bytes(sector[_LABEL_SUMMED:])))
    return bytes(sector)


def _area_header(text: bytes) -> bytes:
    head = struct.pack("<16sIQQ", _AREA_MAGIC, _AREA_VERSION, _AREA_AT, _AREA_BYTES)
    head += struct.pack("<QQII", _AREA_HEADER, len(text), _checksum(text), 0)
    head = head.ljust(_AREA_HEADER - 4, b"\0")
    return struct.pack("<I", _checksum(head)) + head


def _checksum(data: bytes) -> int:
    """calc_crc() with INITIAL_CRC; zlib's CRC-32 is the same one, inverted before and after."""
    return zlib.crc32(data, _CRC_SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
