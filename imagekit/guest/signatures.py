"""What a partition holds, by the magic number of its content.

Sources: libblkid's superblocks (libblkid/src/superblocks of util-linux), which look at the same
places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

ReadBytes = Callable[[int, int], bytes]
"""(offset from the start, count) -> bytes; shorter at the end."""

Content = Literal["ext", "lvm", "swap", "vfat", "program", "nothing", "other"]
"""``program`` is a boot loader's, which the partition's type tells."""

_LABEL_SECTORS = 4  # LVM2 looks for its label in the first four
_SWAP_AT = (4086, 8182, 16374, 65526)  # the end of a page of 4 to 64 KiB
_EMPTY = 64 << 10
"""Bytes at the start of a partition that are looked at: the superblocks that are known lie there,
btrfs's right behind."""


def content_of(read: ReadBytes) -> Content:
    """What ``read`` gives. ``nothing`` is zeros, ``other`` is everything that may hold a guest's
    files in a way that is not known here."""
    start = read(0, _EMPTY + 4096)
    if any(start[512 * n : 512 * n + 8] == b"LABELONE" for n in range(_LABEL_SECTORS)):
        return "lvm"
    if any(start[at : at + 10] in (b"SWAPSPACE2", b"SWAP-SPACE") for at in _SWAP_AT):
        return "swap"
    if start[1080:1082] == b"\x53\xef":
        return "ext"
    if start[510:512] == b"\x55\xaa" and (start[54:57] == b"FAT" or start[82:87] == b"FAT32"):
        return "vfat"
    return "other" if any(start) else "nothing"
