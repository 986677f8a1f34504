"""What every build does once there is a tree: system, kernel check, disk, formats, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.installs.build_facts import disk_path
from imagekit.installs.stages.capability import KernelCheck
from imagekit.installs.stages.configs import Configs
from imagekit.installs.stages.formats import Qcow2, Vhd
from imagekit.installs.stages.image import Image, effective_disk
from imagekit.installs.stages.sbom import Sbom, sbom_target
from imagekit.installs.stages.system import System
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.load import SpecFile


def delivery(
    file: SpecFile, out: Path, tree: str, packages: str, sources: str | None = None
) -> tuple[list[Stage], list[Target]]:
    """Stages and targets that come after ``tree``, a tar file of packages.

    ``packages`` names the artefact that lists them, ``sources`` the one that knows their digests.
    """
    spec = file.spec
    configs = Configs(file, out)
    stages: list[Stage] = [System(file, tree), KernelCheck(file), Image(file), configs]
    stages.append(Sbom(file, packages, sources))
    targets = []
    size = effective_disk(spec.disk).size
    for image_format in spec.disk.formats:
        if image_format == "qcow2":
            stages.append(Qcow2(file))
        elif image_format == "vhd":
            stages.append(Vhd(file))
        targets.append(
            Target(
                f"disk.{image_format}",
                disk_path(spec, image_format),
                "disk",
                0o600,
                {"format": image_format, "virtual_size": size},
            )
        )
    targets += [
        Target("kernel", f"{spec.name}-vmlinuz", "kernel"),
        Target("initrd", f"{spec.name}-initrd.img", "initrd", 0o600),
        *configs.targets(),
        Target("kernel.json", "kernel.json", "kernel-report"),
        Target(packages, "packages.json", "package-list"),
        Target("facts.json", "facts.json", "facts"),
        sbom_target(file),
    ]
    return stages, targets
