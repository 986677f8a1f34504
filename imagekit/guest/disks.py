"""What is on the disk: partitions, file systems, logical volumes.

Type codes: UEFI specification 2.10 table 5-7 (EFI system partition), GRUB manual "BIOS
installation" (BIOS boot partition), MBR ids of sfdisk(8).
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.mounts import DISK, partition_number

ESP_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT_GUID = "21686148-6449-6E6F-744E-656564454649"
ESP_MBR = "0xef"
MAX_FILESYSTEMS = 64

_TABLES = {"gpt": "gpt", "msdos": "mbr"}


@dataclass(frozen=True)
class Partition:
    """One partition; ``start`` and ``size`` in bytes, ``type`` a GUID (GPT) or 0xNN (MBR)."""

    number: int
    start: int
    size: int
    type: str | None
    name: str | None
    bootable: bool

    @property
    def is_esp(self) -> bool:
        return self.type is not None and self.type.upper() in (ESP_GUID, ESP_MBR.upper())


@dataclass(frozen=True)
class FileSystem:
    """A file system, swap or other content; ``partition`` is None on a volume, 0 on a bare disk."""

    device: str
    partition: int | None
    type: str
    uuid: str | None
    label: str | None
    size: int


@dataclass(frozen=True)
class Disk:
    """The whole disk; ``table`` is gpt, mbr, none or another label's name."""

    table: str
    partitions: tuple[Partition, ...]
    filesystems: tuple[FileSystem, ...]
    volume_groups: tuple[str, ...]
    boot_code: bool

    def to_json(self) -> dict[str, Any]:
        """``partition_table``, ``partitions``, ``filesystems``, ``lvm``, ``mbr_boot_code``."""
        by_number = {f.partition: f for f in self.filesystems if f.partition}
        partitions = []
        for part in self.partitions:
            held = by_number.get(part.number)
            partitions.append(
                {
                    **asdict(part),
                    "filesystem": held.type if held else None,
                    "uuid": held.uuid if held else None,
                    "label": held.label if held else None,
                }
            )
        volumes = [f for f in self.filesystems if f.partition is None]
        return {
            "partition_table": self.table,
            "partitions": partitions,
            "filesystems": [asdict(f) for f in self.filesystems],
            "lvm": {
                "volume_groups": list(self.volume_groups),
                "logical_volumes": [{"name": f.device, "size": f.size} for f in volumes],
            },
            "mbr_boot_code": self.boot_code,
        }


def read_disk(app: Appliance) -> Disk:
    """Look at the disk without mounting anything; raises GuestError."""
    table, partitions = _partitions(app)
    kinds = dict(list(app.call("list_filesystems").items())[:MAX_FILESYSTEMS])
    filesystems = tuple(_filesystem(app, str(d), str(kind)) for d, kind in kinds.items())
    groups: tuple[str, ...] = ()
    with contextlib.suppress(CallFailed):
        groups = tuple(str(name) for name in app.call("vgs"))
    sector = bytes(app.call("pread_device", DISK, 512, 0))
    # The 440 bytes before the disk signature hold the boot code (UEFI 2.10, 5.2.1).
    boot_code = sector[510:512] == b"\x55\xaa" and any(sector[:440])
    return Disk(table, partitions, filesystems, groups, boot_code)


def _partitions(app: Appliance) -> tuple[str, tuple[Partition, ...]]:
    try:
        label = str(app.call("part_get_parttype", DISK))
        listed = app.call("part_list", DISK)
    except CallFailed:
        return "none", ()
    if label == "loop":  # parted's word for a file system without a table
        return "none", ()
    parts = [_partition(app, label, found) for found in listed]
    return _TABLES.get(label, label), tuple(sorted(parts, key=lambda p: p.number))


def _partition(app: Appliance, label: str, found: Any) -> Partition:
    number = int(found["part_num"])
    kind: str | None = None
    name: str | None = None
    bootable = False
    with contextlib.suppress(CallFailed):
        if label == "gpt":
            kind = str(app.call("part_get_gpt_type", DISK, number)).upper()
            name = str(app.call("part_get_name", DISK, number)) or None
        else:
            kind = f"0x{int(app.call('part_get_mbr_id', DISK, number)):02x}"
            bootable = bool(app.call("part_get_bootable", DISK, number))
    size = int(found["part_size"])
    return Partition(number, int(found["part_start"]), size, kind, name, bootable)


def _filesystem(app: Appliance, device: str, kind: str) -> FileSystem:
    uuid: str | None = None
    label: str | None = None
    size = 0
    with contextlib.suppress(CallFailed):
        size = int(app.call("blockdev_getsize64", device))
        uuid = str(app.call("vfs_uuid", device)) or None
        label = str(app.call("vfs_label", device)) or None
    return FileSystem(device, partition_number(device), kind, uuid, label, size)
