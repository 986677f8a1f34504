"""A root file system on LVM: made in the libguestfs appliance, whose kernel has device-mapper."""

from __future__ import annotations

from pathlib import Path

from imagekit.disk.filesystem import Region, make
from imagekit.disk.layout import Part
from imagekit.errors import SpecError
from imagekit.pipeline.stage import StageRun
from imagekit.spec.model import Disk
from imagekit.spec.values import format_size

EXTENT = 4 << 20
"""LVM's default physical extent, bytes (lvm2, DEFAULT_EXTENT_SIZE 4096 KiB)."""


def root_volume_bytes(disk: Disk, part: Part) -> int:
    """Size of the root volume: what the partition holds, less LVM's metadata and the swap."""
    extents = (part.size - (1 << 20)) // EXTENT
    swap = -(-disk.swap // EXTENT)
    if extents - swap < 16:
        raise SpecError(
            f"{format_size(part.size)} leaves no room for the root volume",
            hint="make disk.size larger",
        )
    return (extents - swap) * EXTENT


def assemble_lvm(
    disk: Disk, part: Part, tree: Path, image: Path, *, epoch: int | None, run: StageRun
) -> None:
    """Make volume group and volumes in ``part`` and copy a root file system made of ``tree``."""
    from imagekit.guest.appliance import Drive, appliance

    size = root_volume_bytes(disk, part)
    root = run.workspace.temporary("lvm") / "root.img"
    with root.open("xb") as stream:
        stream.truncate(size)
    make(
        disk.filesystem,
        tree,
        Region(root, 0, size),
        uuid=part.fs_uuid,
        label="root",
        epoch=epoch,
        log=run.logs / "filesystems.log",
    )
    drives = [Drive(image, "raw", readonly=False), Drive(root, "raw", readonly=True)]
    group = disk.volume_group
    with appliance(drives, workspace=run.workspace) as guest:
        device = f"/dev/sda{part.number}"
        guest.call("pvcreate", device)
        guest.call("vgcreate", group, [device])
        if disk.swap:
            guest.call("lvcreate", "swap", group, disk.swap >> 20)
            guest.call("mkswap", f"/dev/{group}/swap")
        guest.call("lvcreate", "root", group, size >> 20)
        target = f"/dev/{group}/root"
        guest.call(
            "copy_device_to_device", "/dev/sdb", target, size=size, sparse=True, timeout=1800
        )
        guest.finish()
