"""A small guest whose root is on a logical volume, put on disk without LVM or device-mapper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from oracles.guest_images import ENV, MIB, ROOT_UUID, START, Part, Tree, disk_of

from imagekit.disk.layout import Ids
from imagekit.disk.lvm import EXTENT, LogicalVolume, VolumeGroup, write_group

BOOT_UUID = "0f7c2f0e-5a0f-4b57-9d39-6f5b5a0e00b0"
GROUP_AT = START + 32 * MIB
ROOT_EXTENTS, SWAP_EXTENTS = 16, 3


def on_lvm(root: Tree, boot: Tree, image: Path, scratch: Path, *, group: str = "vg-0") -> int:
    """A GPT disk: /boot as ext4 in partition 1, in 2 the group with the volumes swap and root.

    Returns where the root begins, in bytes.
    """
    size = MIB + (ROOT_EXTENTS + SWAP_EXTENTS + 1) * EXTENT
    parts = [Part("L", "ext4", boot, 32, BOOT_UUID), Part("V", "none", Tree(), size // MIB, "")]
    disk_of(parts, image, scratch)
    ids = Ids(group)
    volumes = (
        LogicalVolume("swap", ids.lvm(), SWAP_EXTENTS),
        LogicalVolume("root", ids.lvm(), ROOT_EXTENTS),
    )
    made = VolumeGroup(group, ids.lvm(), ids.lvm(), "/dev/xvda2", size, 1700000000, volumes)
    write_group(made, image, GROUP_AT)
    tree = scratch / f"tree-{image.name}-root"
    tree.mkdir()
    root.write(tree)
    start = GROUP_AT + made.start("root")
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", ROOT_UUID, "-d", str(tree)]
    argv += ["-E", f"offset={start},root_owner=0:0", str(image), f"{ROOT_EXTENTS * EXTENT >> 10}k"]
    subprocess.run(argv, check=True, env=ENV)
    shutil.rmtree(tree)
    return start
