"""How every plan ends, whatever method makes the disk: formats, configs, materials, lock."""

from __future__ import annotations

from collections.abc import Sequence

from imagekit.installs.build_facts import disk_path
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.capability import KernelCheck
from imagekit.installs.stages.configs import Configs
from imagekit.installs.stages.formats import Qcow2, Vhd
from imagekit.installs.stages.harvestconfigs import HarvestedConfigs
from imagekit.installs.stages.sbom import Sbom, sbom_target
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.derived import effective_disk

FORMATS: dict[str, type[Qcow2] | type[Vhd]] = {"qcow2": Qcow2, "vhd": Vhd}
"""The stage that makes each format of the raw disk."""


def finish(
    context: BuildContext,
    stages: Sequence[Stage],
    disk: Stage,
    lock: Stage,
    *,
    packages: str = "packages.json",
    sources: str | None = None,
    targets: Sequence[Target] = (),
) -> Plan:
    """The plan of ``stages``, then ``disk``, then what every build ends with.

    ``disk`` makes ``disk.raw``, and either ``layout.json`` (the disk is laid out by imagekit) or
    ``harvest.json`` (what was found on it); it or the stages before it make ``kernel`` and
    ``initrd``. What these can boot as is read here unless one of them makes ``kernel.json``.

    ``packages`` names the artefact that lists the installed packages, ``sources`` the one that
    knows their digests; ``lock`` makes ``lock.yaml``. ``targets`` are delivered besides.
    """
    configs = (Configs if "layout.json" in disk.makes else HarvestedConfigs)(context)
    made = {name for stage in (*stages, disk) for name in stage.makes}
    check = [] if "kernel.json" in made else [KernelCheck(context)]
    formats = context.spec.disk.formats
    others = [FORMATS[name](context) for name in formats if name in FORMATS]
    tail = [configs, Sbom(context, packages, sources), lock, *others]
    delivered = [
        *_disks(context),
        *_equipment(context, packages),
        *configs.targets(),
        sbom_target(context.file),
        Target("lock.yaml", f"{context.spec.name}.lock", "lock"),
        *targets,
    ]
    return make_plan([*stages, *check, disk, *tail], delivered, context.environment)


def _disks(context: BuildContext) -> list[Target]:
    spec = context.spec
    size = effective_disk(spec.disk).size
    return [
        Target(
            f"disk.{name}",
            disk_path(spec, name),
            "disk",
            0o600,
            {"format": name, "virtual_size": size},
        )
        for name in spec.disk.formats
    ]


def _equipment(context: BuildContext, packages: str) -> list[Target]:
    name = context.spec.name
    return [
        Target("kernel", f"{name}-vmlinuz", "kernel"),
        Target("initrd", f"{name}-initrd.img", "initrd", 0o600),
        Target("kernel.json", "kernel.json", "kernel-report"),
        Target(packages, "packages.json", "package-list"),
        Target("facts.json", "facts.json", "facts"),
    ]
