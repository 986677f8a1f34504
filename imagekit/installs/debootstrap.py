"""The plan of a debootstrap build: packages, elements, system, kernel check, image, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.elements.locked import locked_elements, require_locked
from imagekit.installs.elements.planning import plan_elements
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.delivery import delivery
from imagekit.installs.stages.elements import CleanupPhase, element_stages
from imagekit.installs.stages.lockfile import InstalledLock, LockFile
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.tree_packages import wanted_packages
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock


def plan(file: SpecFile, out: Path, lock: Lock | None = None, debs: Path | None = None) -> Plan:
    """The stages that build ``file`` into ``out``. Reads inputs, downloads and writes nothing.

    With ``lock`` exactly its packages are installed, from the directory ``debs`` if one is given.
    Raises SpecError or HostError for inputs that are not there.
    """
    spec = file.spec
    if spec.os.arch == "i386" and "pvh" in spec.boot.modes and spec.os.distribution == "ubuntu":
        raise SpecError("Ubuntu has no i386 kernel", where=file.where("os", "arch"))
    offline = lock is not None and debs is not None
    mirrors = Mirrors((), tuple(spec.os.components), Path()) if offline else mirrors_for(file)
    elements = plan_elements(file, mirrors)
    used = locked_elements(file, elements)
    if lock is not None:
        require_locked(file, lock, elements, used)
    wanted = sorted({*wanted_packages(spec), *(elements.packages if elements else ())})
    stages: list[Stage] = []
    tree, packages, sources = "rootfs.tar", "packages.json", None
    if elements is None or not elements.provided:
        stages += [Rootfs(file, mirrors, wanted, lock, debs), LockFile(file, used)]
        sources = "sources.json"
    if elements is not None:
        phases = element_stages(file, elements, "" if elements.provided else tree)
        tree, packages = phases[-1].tree_artefact, CleanupPhase.PACKAGES
        stages += phases
        if elements.provided:
            parts = {"elements": [e.model_dump(mode="json") for e in used]}
            stages.append(InstalledLock(file, packages, parts))
    more, targets = delivery(file, out, tree, packages, sources)
    targets.append(Target("lock.yaml", f"{spec.name}.lock", "lock"))
    return make_plan([*stages, *more], targets)
