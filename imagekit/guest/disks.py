"""What is on the disk: partitions, file systems, logical volumes.

Type codes: UEFI specification 2.10 table 5-7 (EFI system partition), MBR ids of sfdisk(8).
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.devices import DISK, partition_number
from imagekit.guest.table import SECTOR, ReadSectors, TableEntry, UnreadableTable, read_table

ESP_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ESP_MBR = "0xef"
MAX_FILESYSTEMS = 64
LVM = "LVM2_member"
NESTED = ("linux_raid_member", "crypto_LUKS", "btrfs", "zfs_member")
"""Contents that hold further file systems, beside LVM's physical volumes."""


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
    partitions: tuple[TableEntry, ...]
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
    names = [str(name) for name in app.call("list_partitions")][:MAX_FILESYSTEMS]
    try:
        table, entries = read_table(_reader(app))
    except UnreadableTable:
        table, entries = _by_parted(app)
    numbers = {partition_number(name) for name in names}
    entries = [entry for entry in entries if entry.number in numbers]
    sizes = {entry.number: entry.size for entry in entries}
    found = [_filesystem(app, name, sizes.get(partition_number(name) or 0)) for name in names]
    if not names:
        found = [_filesystem(app, DISK, None)]
    groups: tuple[str, ...] = ()
    kinds = {f.type for f in found}
    if kinds & {LVM, *NESTED}:
        # The volumes of LVM are known by their names; of the rest, libguestfs looks at everything,
        # which takes seconds.
        listed = app.call("list_filesystems" if kinds & set(NESTED) else "lvs")
        known = {f.device for f in found}
        more = [str(d) for d in listed if str(d) not in known]
        found += [_filesystem(app, d, None) for d in more[:MAX_FILESYSTEMS] if ":" not in d]
        with contextlib.suppress(CallFailed):
            groups = tuple(str(name) for name in app.call("vgs"))
    sector = bytes(app.call("pread_device", DISK, 512, 0))
    # The 440 bytes before the disk signature hold the boot code (UEFI 2.10, 5.2.1).
    boot_code = sector[510:512] == b"\x55\xaa" and any(sector[:440])
    return Disk(table, tuple(entries), tuple(found), groups, boot_code)


def is_esp(entry: TableEntry) -> bool:
    """Whether a partition is an EFI system partition."""
    return entry.type.upper() in (ESP_GUID, ESP_MBR.upper())


def _reader(app: Appliance) -> ReadSectors:
    def read(first: int, count: int) -> bytes:
        try:
            return bytes(app.call("pread_device", DISK, count * SECTOR, first * SECTOR))
        except CallFailed:
            return b""

    return read


def _by_parted(app: Appliance) -> tuple[str, list[TableEntry]]:
    """Tables that parted knows and we do not, or whose first copy is damaged."""
    try:
        label = str(app.call("part_get_parttype", DISK))
        listed = app.call("part_list", DISK)
    except CallFailed:
        return "none", []
    entries = []
    for part in listed:
        start, size = int(part["part_start"]), int(part["part_size"])
        entries.append(
            TableEntry(int(part["part_num"]), start, size, "", None, bootable=False, part_uuid=None)
        )
    return {"msdos": "mbr", "loop": "none"}.get(label, label), entries


def _filesystem(app: Appliance, device: str, size: int | None) -> FileSystem:
    tags: dict[str, str] = {}
    with contextlib.suppress(CallFailed):
        tags = app.call("blkid", device)
        if size is None:
            size = int(app.call("blockdev_getsize64", device))
    kind = tags.get("TYPE") or "unknown"
    uuid, label = tags.get("UUID") or None, tags.get("LABEL") or None
    return FileSystem(device, partition_number(device), kind, uuid, label, size or 0)
