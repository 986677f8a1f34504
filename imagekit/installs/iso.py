"""The plan of an installation from ISO: answers, remaster, run, harvest, formats, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.locking import Lock
from imagekit.installs.stages.answers import Answers, template_digests
from imagekit.installs.stages.configs import disk_path
from imagekit.installs.stages.formats import Qcow2, Vhd
from imagekit.installs.stages.harvesting import Harvest, HarvestedConfigs
from imagekit.installs.stages.image import effective_disk
from imagekit.installs.stages.installing import InstallFromIso
from imagekit.installs.stages.isosource import IsoSource
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.installs.stages.remastering import Remaster
from imagekit.installs.stages.sbom import Sbom, sbom_target
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Iso
from imagekit.spec.load import SpecFile


def plan(file: SpecFile, out: Path, lock: Lock | None = None) -> Plan:
    """The stages that install ``file`` from its ISO. Downloads and writes nothing.

    With ``lock`` the ISO and the template must be the lock's, and so must the packages when it is
    done.

    Raises SpecError or HostError for inputs that are not there.
    """
    spec, install = file.spec, file.spec.install
    if not isinstance(install, Iso):
        raise TypeError(f"install.method is {install.method}")
    if install.on_host:
        raise SpecError(
            "an installation on a Xen host is not emitted yet",
            where=file.where("install", "on_host"),
            hint="leave on_host out: the installer is then run here, in QEMU",
        )
    _refuse_unused(file)
    templates = template_digests(file, install)
    if lock is not None:
        if lock.templates != templates:
            raise SpecError(
                "the answers' template has changed since the lock was made",
                where=file.where("install", "template"),
            )
        install = install.model_copy(update={"sha256": lock.iso_sha256})
    configs = HarvestedConfigs(file, out)
    stages: list[Stage] = [
        IsoSource(file, install),
        Answers(file, install),
        Remaster(file, install),
        InstallFromIso(file, install),
        Harvest(file, golden=install.golden),
        configs,
        Sbom(file, "packages.json"),
        InstalledLock(file, "packages.json", {"templates": templates}, iso="source.iso", lock=lock),
    ]
    size = effective_disk(spec.disk).size
    targets = []
    for image_format in spec.disk.formats:
        if image_format == "qcow2":
            stages.append(Qcow2(file))
        elif image_format == "vhd":
            stages.append(Vhd(file))
        fields = {"format": image_format, "virtual_size": size}
        path = disk_path(spec, image_format)
        targets.append(Target(f"disk.{image_format}", path, "disk", 0o600, fields))
    targets += [
        Target("kernel", f"{spec.name}-vmlinuz", "kernel"),
        Target("initrd", f"{spec.name}-initrd.img", "initrd", 0o600),
        *configs.targets(),
        Target("kernel.json", "kernel.json", "kernel-report"),
        Target("packages.json", "packages.json", "package-list"),
        Target("facts.json", "facts.json", "facts"),
        Target("answers", f"{spec.name}.answers", "answers", 0o600),
        Target("remaster.json", "remaster.json", "remaster-report"),
        sbom_target(file),
        Target("lock.yaml", f"{spec.name}.lock", "lock"),
    ]
    return make_plan(stages, targets)


def _refuse_unused(file: SpecFile) -> None:
    """Parts of a spec that no installer is told about would silently be left out."""
    spec = file.spec
    for field, given in (("files", spec.files), ("scripts", spec.scripts)):
        if given:
            raise SpecError(
                f"{field} are not put into a guest that an installer makes",
                where=file.where(field),
                hint="use imagekit inject on the built image, or your own answers template",
            )
    if spec.disk.table == "none":
        raise SpecError("an installer needs a partition table", where=file.where("disk", "table"))
    if spec.disk.filesystem == "btrfs":
        raise SpecError(
            "the answers know ext4 and xfs, not btrfs", where=file.where("disk", "filesystem")
        )
