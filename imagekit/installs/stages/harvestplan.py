"""What comes after an installer has run, however it was started: harvest, formats, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.build_facts import disk_path
from imagekit.installs.stages.answers import template_digests
from imagekit.installs.stages.formats import Qcow2, Vhd
from imagekit.installs.stages.harvesting import Harvest, HarvestedConfigs
from imagekit.installs.stages.image import effective_disk
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.installs.stages.sbom import Sbom, sbom_target
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock


def after_install(
    file: SpecFile,
    out: Path,
    install: Iso | Netboot,
    lock: Lock | None,
    *,
    iso: str | None = None,
) -> tuple[list[Stage], list[Target]]:
    """Stages and targets that come after ``installed.raw`` and ``answers``.

    With ``lock`` the template must be the lock's, and so must the packages that were installed.
    ``iso`` is the artefact of the verified ISO, if there is one. Raises SpecError.
    """
    spec = file.spec
    templates = template_digests(file, install)
    if lock is not None and lock.templates != templates:
        raise SpecError(
            "the answers' template has changed since the lock was made",
            where=file.where("install", "template"),
        )
    configs = HarvestedConfigs(file, out)
    stages: list[Stage] = [
        Harvest(file, golden=install.golden),
        configs,
        Sbom(file, "packages.json"),
        InstalledLock(file, "packages.json", {"templates": templates}, iso=iso, lock=lock),
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
        answers_target(file),
        sbom_target(file),
        Target("lock.yaml", f"{spec.name}.lock", "lock"),
    ]
    return stages, targets


def answers_target(file: SpecFile) -> Target:
    """The answers as they are delivered: they hold password hashes."""
    return Target("answers", f"{file.spec.name}.answers", "answers", 0o600)


def refuse_lock(file: SpecFile, lock: Lock | None) -> None:
    """Raise SpecError for a lock: what installs on another host cannot be held to it here."""
    if lock is not None:
        raise SpecError(
            "nothing is installed here that could be compared with the lock",
            where=file.where("install", "on_host"),
        )


def refuse_unused(file: SpecFile) -> None:
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
