"""The plan of a disk-image-create build: its tree, then system, kernel check, image, configs."""

from __future__ import annotations

import os
from pathlib import Path

from imagekit.errors import HostError, SpecError
from imagekit.installs.elements.locked import locked_elements, require_locked
from imagekit.installs.elements.planning import plan_whole
from imagekit.installs.locking import Lock
from imagekit.installs.stages.delivery import delivery
from imagekit.installs.stages.diskimage import DiskImageCreate
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.installs.stages.mirrors import mirrors_for
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Target
from imagekit.spec.install import DiskimageBuilder
from imagekit.spec.load import SpecFile


def plan(file: SpecFile, out: Path, lock: Lock | None = None) -> Plan:
    """The stages that build ``file`` into ``out``. Reads inputs, downloads and writes nothing.

    With ``lock`` the elements must be the lock's, and so must the packages when it is done.
    Raises SpecError or HostError for what cannot be built here.
    """
    install = file.spec.install
    if not isinstance(install, DiskimageBuilder):
        raise TypeError(f"install.method is {install.method}")
    if install.block_device is not None:
        raise SpecError(
            "the disk is laid out by imagekit, from the tree that disk-image-create makes; a "
            "block-device configuration of its own has no use",
            where=file.where("install", "block_device"),
            hint="describe the disk in disk:, which has partitions, swap and LVM",
        )
    if os.geteuid() != 0:
        raise HostError(
            "disk-image-create needs root",
            hint="run imagekit as root, or use install.method: debootstrap with the elements",
        )
    elements = plan_whole(file, install, mirrors_for(file))
    used = locked_elements(file, elements)
    if lock is not None:
        require_locked(file, lock, None, used)
    parts = {"elements": [e.model_dump(mode="json") for e in used]}
    more, targets = delivery(file, out, "rootfs.tar", "packages.json")
    targets.append(Target("lock.yaml", f"{file.spec.name}.lock", "lock"))
    stages = [
        DiskImageCreate(file, install, elements),
        InstalledLock(file, "packages.json", parts, lock=lock),
    ]
    return make_plan([*stages, *more], targets)
