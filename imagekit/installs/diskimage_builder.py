"""The plan of a disk-image-create build: its tree, then system, kernel check, image, configs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imagekit.errors import HostError, SpecError
from imagekit.installs.elements.blockdevice import read_block_device
from imagekit.installs.elements.locked import locked_elements, require_locked
from imagekit.installs.elements.planning import NEEDED, plan_whole
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.blockdevice import BlockDeviceImage
from imagekit.installs.stages.configs import Configs
from imagekit.installs.stages.delivery import delivery
from imagekit.installs.stages.diskimage import DiskImageCreate
from imagekit.installs.stages.harvestconfigs import HarvestedConfigs
from imagekit.installs.stages.image import Image
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.tree_packages import tree_install, wanted_packages
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import DiskimageBuilder
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock


def plan(file: SpecFile, out: Path, lock: Lock | None = None) -> Plan:
    """The stages that build ``file`` into ``out``. Reads inputs, downloads and writes nothing.

    With ``lock`` the elements must be the lock's, and so must the packages when it is done.
    Raises SpecError or HostError for what cannot be built here.
    """
    install = file.spec.install
    if not isinstance(install, DiskimageBuilder):
        raise TypeError(f"install.method is {install.method}")
    if os.geteuid() != 0:
        raise HostError(
            "disk-image-create needs root",
            hint="run imagekit as root, or use install.method: debootstrap with the elements",
        )
    mirrors = mirrors_for(file)
    elements = plan_whole(file, install, mirrors)
    used = locked_elements(file, elements)
    if lock is not None:
        require_locked(file, lock, None, used)
    parts = {"elements": [e.model_dump(mode="json") for e in used]}
    create = DiskImageCreate(file, install, elements)
    stages: list[Stage] = [create, InstalledLock(file, create.PACKAGES, parts, lock=lock)]
    if not elements.provided:
        stages.insert(0, _seed(file, mirrors))
    more, targets = delivery(file, out, create.TREE, create.PACKAGES)
    targets.append(Target("lock.yaml", f"{file.spec.name}.lock", "lock"))
    if install.block_device is not None:
        more = _laid_out(file, out, install.block_device, more)
    return make_plan([*stages, *more], targets)


def _seed(file: SpecFile, mirrors: Mirrors) -> Rootfs:
    """imagekit's own tree, as debootstrap builds have it, for elements that bring none."""
    spec = file.spec.model_copy(update={"install": tree_install(file.spec)})
    packages = sorted({*wanted_packages(file.spec), *NEEDED})
    return Rootfs(replace(file, spec=spec), mirrors, packages)


def _laid_out(file: SpecFile, out: Path, name: str, stages: Sequence[Stage]) -> list[Stage]:
    """``stages`` with a disk by the block-device configuration ``name`` in place of imagekit's."""
    disk = file.spec.disk
    for field in ("table", "boot_size", "swap", "lvm", "volume_group", "partitions"):
        if field in disk.model_fields_set:
            raise SpecError(
                f"install.block_device lays out the disk, and disk.{field} does so too",
                where=file.where("disk", field),
                hint="leave one of them out",
            )
    if "hvm" in file.spec.boot.modes:
        raise SpecError(
            "a disk of install.block_device gets no boot loader, which HVM guests need",
            where=file.where("boot", "modes"),
            hint="set boot: {modes: [pv, pvh]}, or leave install.block_device out",
        )
    image = BlockDeviceImage(file, read_block_device(file, name))
    image.require_host()
    configs = HarvestedConfigs(file, out)
    others = [s for s in stages if not isinstance(s, Image | Configs)]
    return [*others, image, configs]
