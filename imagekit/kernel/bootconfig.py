"""Bootloader configurations: one door to all readers.

``parse_grub2``, ``parse_grub_legacy`` and ``parse_extlinux`` read as pygrub does, ``pygrub_view``
chooses as it does, ``findings`` says where that differs from the bootloader itself. ``read_grub2``
and ``parse_bls`` read as the bootloader does.
"""

from __future__ import annotations

from imagekit.kernel.bls import parse_bls
from imagekit.kernel.bootfindings import findings
from imagekit.kernel.bootmenu import BootEntry, BootMenu, Finding
from imagekit.kernel.grub2 import parse_grubenv, read_grub2
from imagekit.kernel.pygrub import CONFIG_PATHS, PygrubChoice, PygrubRefusal, pygrub_view
from imagekit.kernel.pygrub_parse import parse_extlinux, parse_grub2, parse_grub_legacy

__all__ = [
    "CONFIG_PATHS",
    "BootEntry",
    "BootMenu",
    "Finding",
    "PygrubChoice",
    "PygrubRefusal",
    "findings",
    "parse_bls",
    "parse_extlinux",
    "parse_grub2",
    "parse_grub_legacy",
    "parse_grubenv",
    "pygrub_view",
    "read_grub2",
]
