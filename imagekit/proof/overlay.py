"""Gives a guest its disks to write to without a byte of them being changed.

What dom0 sees at the config's path is the file's own bytes, whatever its format: qcow2 and VHD are
read by dom0's QEMU, as on a real host. Below it lies an overlay that takes the writes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.disk.extents import opened, size_of
from imagekit.disk.reading import probe
from imagekit.host.run import run
from imagekit.proof.guestconfig import GuestDisk

GROWTH = 64 << 20
"""Bytes for the tables of an image that grows as its guest writes."""

SECTOR = 512


def make_overlay(disk: GuestDisk, host: Path, target: Path) -> None:
    """Write the overlay ``target`` for the file or block device ``host``; raises ToolError."""
    host = host.absolute()
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(host), "-F", "raw", str(target)]
    run([*argv, str(device_bytes(disk, host))], what="making an overlay", timeout=60)


def device_bytes(disk: GuestDisk, host: Path) -> int:
    """Size of the device that dom0 sees: the file's, and room to grow for formats that do.

    A fixed VHD is the exception that must keep its size, for its footer is its last sector.
    """
    with opened(host) as fd:
        size = -(-size_of(fd) // SECTOR) * SECTOR
    if disk.format == "raw" or disk.readonly:
        return size
    info = probe(host, disk.format)
    if info.details.get("subformat") == "fixed":
        return size
    whole = info.virtual_size + info.virtual_size // 16 + GROWTH
    return -(-max(size, whole) // SECTOR) * SECTOR


@dataclass(frozen=True)
class Overlaid:
    """A file or block device ``host`` below its ``overlay``."""

    host: Path
    overlay: Path

    def node(self, host: str, overlay: str) -> dict[str, Any]:
        """The QMP arguments of blockdev-add, in which the two are opened by these names.

        Nothing is left to probing.
        """
        device = stat.S_ISBLK(self.host.stat().st_mode)
        base = {"driver": "host_device" if device else "file", "filename": host}
        return {
            "driver": "qcow2",
            "discard": "unmap",
            "file": {"driver": "file", "filename": overlay},
            "backing": {"driver": "raw", "read-only": True, "file": {**base, "read-only": True}},
        }
