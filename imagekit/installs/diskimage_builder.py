"""The plan of a disk-image-create build: its tree, then system, disk, and how every build ends."""

from __future__ import annotations

import os
from dataclasses import replace

from imagekit.errors import HostError, SpecError
from imagekit.installs.context import BuildContext
from imagekit.installs.elements.blockdevice import read_block_device
from imagekit.installs.elements.locked import locked_elements, require_locked
from imagekit.installs.elements.planning import NEEDED, plan_whole
from imagekit.installs.finish import finish
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.blockdevice import BlockDeviceImage
from imagekit.installs.stages.diskimage import DiskImageCreate
from imagekit.installs.stages.image import Image
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.system import System
from imagekit.installs.tree_packages import tree_install, wanted_packages
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import Stage
from imagekit.spec.install import DiskimageBuilder


def plan(context: BuildContext) -> Plan:
    """The stages that build a guest by disk-image-create. Reads inputs, writes nothing.

    With a lock the elements must be the lock's, and so must the packages when it is done. Raises
    SpecError or HostError for what cannot be built here.
    """
    file, install = context.file, context.spec.install
    if not isinstance(install, DiskimageBuilder):
        raise TypeError(f"install.method is {install.method}")
    if os.geteuid() != 0:
        raise HostError(
            "disk-image-create needs root",
            hint="run imagekit as root, or use install.method: debootstrap with the elements",
        )
    mirrors = mirrors_for(file, context.host)
    elements = plan_whole(file, install, mirrors)
    used = locked_elements(file, elements)
    if context.lock is not None:
        require_locked(file, context.lock, None, used)
    parts = {"elements": [e.model_dump(mode="json") for e in used]}
    create = DiskImageCreate(context, install, elements)
    stages: list[Stage] = [create, System(context, create.TREE)]
    if not elements.provided:
        stages.insert(0, _seed(context, mirrors))
    name = install.block_device
    disk = Image(context) if name is None else _block_device(context, name)
    lock = InstalledLock(context, create.PACKAGES, parts)
    return finish(context, stages, disk, lock, packages=create.PACKAGES)


def _seed(context: BuildContext, mirrors: Mirrors) -> Rootfs:
    """imagekit's own tree, as debootstrap builds have it, for elements that bring none."""
    spec = context.spec.model_copy(update={"install": tree_install(context.spec)})
    packages = sorted({*wanted_packages(context.spec), *NEEDED})
    # The lock of such a build names no package files: what was installed is compared afterwards.
    alone = replace(context, file=replace(context.file, spec=spec), lock=None)
    return Rootfs(alone, mirrors, packages)


def _block_device(context: BuildContext, name: str) -> BlockDeviceImage:
    """The stage that lays out the disk by the block-device configuration ``name``."""
    file, disk = context.file, context.spec.disk
    for field in ("table", "boot_size", "swap", "lvm", "volume_group", "partitions"):
        if field in disk.model_fields_set:
            raise SpecError(
                f"install.block_device lays out the disk, and disk.{field} does so too",
                where=file.where("disk", field),
                hint="leave one of them out",
            )
    if "hvm" in context.spec.boot.modes:
        raise SpecError(
            "a disk of install.block_device gets no boot loader, which HVM guests need",
            where=file.where("boot", "modes"),
            hint="set boot: {modes: [pv, pvh]}, or leave install.block_device out",
        )
    return BlockDeviceImage(context, read_block_device(file, name))
