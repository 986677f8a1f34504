"""What an installer put on a disk to boot it by, as far as domain configs follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.domain.facts import PygrubView
from imagekit.domain.factsjson import dump, load
from imagekit.guest.inspection import DefaultEntry, Inspection


@dataclass(frozen=True)
class BootEquipment:
    """What was found on an installed disk; ``cmdline`` is without consoles and BOOT_IMAGE.

    ``boot_filesystem`` is the type of the file system with the boot menu ``grub_config``, empty and
    None where there is no menu. ``bootloader_bios`` and ``bootloader_uefi`` tell whether firmware
    of that kind finds a boot loader.
    """

    cmdline: str
    pygrub: PygrubView
    partition_table: Literal["gpt", "mbr", "none"]
    boot_filesystem: str
    grub_config: str | None
    bootloader_bios: bool
    bootloader_uefi: bool


def chosen_entry(found: Inspection) -> DefaultEntry | None:
    """The boot menu's default: pygrub's reading of it where pygrub can, else GRUB's."""
    return found.default_entry or found.grub_default


def boot_equipment(found: Inspection) -> BootEquipment:
    """What ``found`` says of a disk."""
    entry = chosen_entry(found)
    pygrub = found.default_entry
    hvm, pv = found.boot_paths["hvm"], found.boot_paths["pv"]
    words = entry.args.split() if entry is not None else []
    types = [f.filesystem.type for f in found.scans if entry and f.name == entry.filesystem]
    table = found.disk.table
    return BootEquipment(
        cmdline=" ".join(w for w in words if not w.startswith(("console=", "BOOT_IMAGE="))),
        pygrub=PygrubView(
            pygrub is not None,
            f"pygrub reads {pygrub.config}" if pygrub else pv["pygrub"].reason,
        ),
        partition_table="gpt" if table == "gpt" else "mbr" if table == "mbr" else "none",
        boot_filesystem=types[0] if types else "",
        grub_config=entry.config if entry is not None else None,
        bootloader_bios=hvm["firmware_bios"].works,
        bootloader_uefi=hvm["firmware_uefi"].works,
    )


def write_equipment(equipment: BootEquipment, path: Path) -> None:
    """Write ``harvest.json``."""
    path.write_text(json.dumps(dump(equipment), indent=1))


def read_equipment(path: Path) -> BootEquipment:
    """The ``harvest.json`` in ``path``; raises SpecError."""
    return load(json.loads(path.read_text()), BootEquipment, str(path))
