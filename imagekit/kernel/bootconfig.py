"""Bootloader configurations: one door to all readers.

``parse_grub2``, ``parse_grub_legacy`` and ``parse_extlinux`` read as pygrub does, ``pygrub_view``
chooses as it does, ``findings`` says where that differs from the bootloader itself.
"""

from __future__ import annotations

from imagekit.kernel.bootmenu import BootEntry, BootMenu, Finding
from imagekit.kernel.pygrub import CONFIG_PATHS, PygrubChoice, PygrubRefusal, pygrub_view
from imagekit.kernel.pygrub_parse import parse_extlinux, parse_grub2, parse_grub_legacy

__all__ = [
    "CONFIG_PATHS",
    "BootEntry",
    "BootMenu",
    "Finding",
    "PygrubChoice",
    "PygrubRefusal",
    "parse_extlinux",
    "parse_grub2",
    "parse_grub_legacy",
    "pygrub_view",
]
