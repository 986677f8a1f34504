"""A root file system and swap on logical volumes, put where LVM will find them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.filesystem import Region, make
from imagekit.disk.layout import Ids, Part
from imagekit.disk.lvm import EXTENT, LogicalVolume, VolumeGroup, extents_of, write_group
from imagekit.errors import SpecError
from imagekit.spec.model import Disk
from imagekit.spec.values import format_size


@dataclass(frozen=True)
class RootOnLvm:
    """The volume group in the partition ``part``: ``root``, and ``swap`` before it if wanted."""

    part: Part
    group: VolumeGroup
    filesystem: str
    swap_uuid: str

    def region(self, name: str, image: Path) -> Region:
        """Where the volume ``name`` lies in ``image``."""
        size = next(volume.size for volume in self.group.volumes if volume.name == name)
        return Region(image, self.part.start + self.group.start(name), size)


def plan_lvm(disk: Disk, part: Part, ids: Ids, *, epoch: int | None) -> RootOnLvm:
    """The group that fills ``part`` as ``disk`` says; raises SpecError without room for a root.

    ``ids`` gives the identifiers, ``epoch`` (seconds since 1970, None for now) the time of making.
    """
    room, swap = extents_of(part.size), -(-disk.swap // EXTENT)
    if room - swap < 16:
        raise SpecError(
            f"{format_size(part.size)} leaves no room for the root volume",
            hint="make disk.size larger",
        )
    volumes = [LogicalVolume("swap", ids.lvm(), swap)] if swap else []
    volumes.append(LogicalVolume("root", ids.lvm(), room - swap))
    group = VolumeGroup(
        name=disk.volume_group,
        uuid=ids.lvm(),
        physical_uuid=ids.lvm(),
        # A hint, which LVM corrects when it writes; under Xen the disk is xvda.
        device=f"/dev/xvda{part.number}",
        device_bytes=part.size,
        created=int(time.time()) if epoch is None else epoch,
        volumes=tuple(volumes),
    )
    return RootOnLvm(part, group, disk.filesystem, ids.uuid())


def assemble_lvm(
    planned: RootOnLvm, tree: Path, image: Path, *, epoch: int | None, log: Path
) -> None:
    """Write the group into ``image``, and make a root file system of ``tree`` in it, and swap.

    Raises as :func:`imagekit.disk.filesystem.make`.
    """
    part = planned.part
    write_group(planned.group, image, part.start)
    for volume in planned.group.volumes:
        region = planned.region(volume.name, image)
        if volume.name == "swap":
            make("swap", None, region, uuid=planned.swap_uuid, log=log)
        else:
            make(
                planned.filesystem,
                tree,
                region,
                uuid=part.fs_uuid,
                label="root",
                epoch=epoch,
                log=log,
            )
