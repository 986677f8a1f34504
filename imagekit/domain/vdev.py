"""Virtual device names: xvda, hda, sda, and partitions of them.

Source: xen-vbd-interface(7) and ``tools/libs/light/libxl_device.c``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagekit.domain.text import one_line, refuse

_VDEV = re.compile(r"(xvd|hd|sd)([a-z]{1,2})([1-9][0-9]?)?")
_LAST = {"xvd": 26 + 26 * 26 - 1, "hd": 3, "sd": 15}
_PARTITIONS = {"xvd": 15, "hd": 63, "sd": 15}


@dataclass(frozen=True)
class Vdev:
    """``bus`` is xvd, hd or sd; ``index`` counts disks from 0; ``partition`` from 1, or None."""

    bus: str
    index: int
    partition: int | None


def parse_vdev(name: str, where: str = "vdev") -> Vdev:
    """Read a device name; raises SpecError for what xl would not take or misread."""
    one_line(name, where)
    match = _VDEV.fullmatch(name)
    if match is None:
        refuse(f"{name!r} is not a virtual disk's name", where, "xvda, xvdb ... or hda to hdd")
    bus, letters, partition = match.groups()
    index = 0
    for letter in letters:
        index = index * 26 + ord(letter) - ord("a") + 1
    index -= 1
    if index > _LAST[bus]:
        refuse(f"{name!r} is past the last {bus} disk", where, "xvd names go on to xvdzz")
    if partition and int(partition) > _PARTITIONS[bus]:
        refuse(f"{name!r}: partitions go to {_PARTITIONS[bus]}", where)
    return Vdev(bus, index, int(partition) if partition else None)
