"""Where partitions lie on a disk, and the tables that say so. Positions are bytes.

GPT type GUIDs: UEFI specification 2.10, 5.3.3, and the Discoverable Partitions Specification.
"""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from imagekit.disk.lvm import IDENTIFIER_BITS, identifier
from imagekit.errors import SpecError
from imagekit.host.run import run
from imagekit.spec.model import Disk
from imagekit.spec.values import format_size

SECTOR = 512
MIB = 1 << 20
ESP_BYTES = 16 * MIB

Role = Literal["biosboot", "esp", "boot", "swap", "data", "root", "lvm"]
GPT_TYPES: dict[Role, str] = {
    "biosboot": "21686148-6449-6E6F-744E-656564454649",
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "boot": "BC13C2FF-59E6-4262-A352-B275FD6F7172",
    "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "data": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "lvm": "E6D6D379-F507-44C2-A23C-238F2A3DF928",
}
MBR_TYPES: dict[Role, str] = {"boot": "83", "swap": "82", "data": "83", "root": "83", "lvm": "8e"}


@dataclass(frozen=True)
class Part:
    """One partition: number (0 for a whole disk), role, start and size in bytes, identifiers."""

    number: int
    role: Role
    start: int
    size: int
    part_uuid: str
    fs_uuid: str = ""
    filesystem: str = ""
    mount: str = ""


@dataclass(frozen=True)
class Layout:
    """A disk: table, size in bytes, disk identifier and its partitions in disk order."""

    table: Literal["gpt", "mbr", "none"]
    size: int
    disk_id: str
    parts: tuple[Part, ...]

    def find(self, role: Role) -> Part | None:
        """The first partition with ``role``."""
        return next((p for p in self.parts if p.role == role), None)

    @property
    def boot_part(self) -> Part:
        """The partition that holds /boot."""
        part = self.find("boot") or self.find("root")
        if part is None:
            raise SpecError("the layout has neither a /boot nor a root partition")
        return part

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for layout.json; :meth:`from_json` gives it back."""
        return {
            "table": self.table,
            "size": self.size,
            "disk_id": self.disk_id,
            "partitions": [vars(p) for p in self.parts],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        """The layout that :meth:`to_json` wrote."""
        parts = tuple(Part(**part) for part in value["partitions"])
        return cls(value["table"], value["size"], value["disk_id"], parts)


@dataclass(frozen=True)
class Assembled:
    """What boots a finished disk: its layout, and the kernel's command line without consoles."""

    layout: Layout
    cmdline: str


def write_assembled(made: Assembled, target: Path) -> None:
    """Write layout.json, which :func:`read_assembled` reads."""
    target.write_text(json.dumps({"layout": made.layout.to_json(), "cmdline": made.cmdline}))


def read_assembled(path: Path) -> Assembled:
    """What ``path``, a layout.json of our own, says."""
    value = json.loads(path.read_text())
    return Assembled(Layout.from_json(value["layout"]), value["cmdline"])


class Ids:
    """Makes identifiers: random, or derived from ``seed`` so that a rebuild gives the same."""

    def __init__(self, seed: str | None) -> None:
        self._random = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311 - identifiers, no secrets

    def uuid(self) -> str:
        """A version 4 UUID in lower case."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def hex32(self) -> str:
        """32 bits as eight hex digits."""
        return f"{self._random.getrandbits(32) | 1:08x}"

    def lvm(self) -> str:
        """An identifier of LVM, 32 characters."""
        return identifier(self._random.getrandbits(IDENTIFIER_BITS))


def plan_layout(disk: Disk, ids: Ids) -> Layout:
    """Place the partitions of ``disk``: what firmware needs, /boot, swap, data, and the root last.

    The root comes last so that it can grow when the disk does. Everything is aligned to 1 MiB.
    """
    if disk.table == "none":
        whole = Part(0, "root", 0, disk.size, "", ids.uuid(), disk.filesystem, "/")
        return Layout("none", disk.size, "", (whole,))
    wanted: list[Part] = []

    def add(role: Role, size: int, filesystem: str = "", mount: str = "") -> None:
        fs_uuid = ids.hex32() if role == "esp" else ids.uuid()
        wanted.append(Part(0, role, 0, size, ids.uuid(), fs_uuid, filesystem, mount))

    if disk.table == "gpt":
        add("biosboot", MIB)
        add("esp", ESP_BYTES, "vfat")
    if disk.boot_bytes:
        add("boot", disk.boot_bytes, "ext4", "/boot")
    if disk.swap and not disk.lvm:
        add("swap", disk.swap, "swap")
    for extra in disk.partitions:
        add("data", extra.size, extra.filesystem, extra.mount)
    add("lvm" if disk.lvm else "root", 0, "" if disk.lvm else disk.filesystem, "/")
    parts: list[Part] = []
    position = MIB
    end = disk.size - (MIB if disk.table == "gpt" else 0)
    for number, part in enumerate(wanted, 1):
        size = part.size or end - position
        parts.append(replace(part, number=number, start=position, size=size))
        position += size
    if position > end or parts[-1].size < 16 * MIB:
        raise SpecError(
            f"disk.size {format_size(disk.size)} leaves no room for the root file system",
            hint="make disk.size larger",
        )
    disk_id = ids.uuid() if disk.table == "gpt" else ids.hex32()
    return Layout(disk.table, disk.size, disk_id, tuple(parts))


def write_table(layout: Layout, image: Path) -> None:
    """Write the partition table of ``layout`` to ``image``, a raw file of the right size.

    sfdisk(8) works on a plain file; the identifiers are all given, so the result is repeatable.
    """
    if layout.table == "none":
        return
    lines = [
        f"label: {'gpt' if layout.table == 'gpt' else 'dos'}",
        f"label-id: {layout.disk_id if layout.table == 'gpt' else '0x' + layout.disk_id}",
        "unit: sectors",
    ]
    for part in layout.parts:
        fields = [f"start={part.start // SECTOR}", f"size={part.size // SECTOR}"]
        if layout.table == "gpt":
            fields += [f"type={GPT_TYPES[part.role]}", f"uuid={part.part_uuid}"]
            fields.append(f'name="{part.role}"')
        else:
            fields.append(f"type={MBR_TYPES[part.role]}")
            if part is layout.boot_part or part.role == "root":
                fields.append("bootable")
        lines.append(", ".join(fields))
    run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(image)],
        input=("\n".join(lines) + "\n").encode(),
        what="writing the partition table",
        timeout=60,
    )
