"""The plan of a debootstrap build: packages, elements, system, and how every build ends."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.context import BuildContext
from imagekit.installs.elements.locked import locked_elements, require_locked
from imagekit.installs.elements.planning import plan_elements
from imagekit.installs.finish import finish
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.elements import CleanupPhase, element_stages
from imagekit.installs.stages.image import Image
from imagekit.installs.stages.lockfile import InstalledLock, LockFile
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.system import System
from imagekit.installs.tree_packages import wanted_packages
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import Stage


def plan(context: BuildContext) -> Plan:
    """The stages that build a guest of packages. Reads inputs, downloads and writes nothing.

    With a lock exactly its packages are installed. Raises SpecError or HostError for inputs that
    are not there.
    """
    file, spec = context.file, context.spec
    if spec.os.arch == "i386" and "pvh" in spec.boot.modes and spec.os.distribution == "ubuntu":
        raise SpecError("Ubuntu has no i386 kernel", where=file.where("os", "arch"))
    offline = context.lock is not None and context.debs is not None
    mirrors = (
        Mirrors((), tuple(spec.os.components), Path())
        if offline
        else mirrors_for(file, context.host)
    )
    elements = plan_elements(file, mirrors)
    used = locked_elements(file, elements)
    if context.lock is not None:
        require_locked(file, context.lock, elements, used)
    wanted = sorted({*wanted_packages(spec), *(elements.packages if elements else ())})
    stages: list[Stage] = []
    lock: Stage = LockFile(context, used)
    tree, packages, sources = "rootfs.tar", "packages.json", None
    if elements is None or not elements.provided:
        stages.append(Rootfs(context, mirrors, wanted))
        sources = "sources.json"
    if elements is not None:
        phases = element_stages(context, elements, "" if elements.provided else tree)
        tree, packages = phases[-1].tree_artefact, CleanupPhase.PACKAGES
        stages += phases
        if elements.provided:
            parts = {"elements": [e.model_dump(mode="json") for e in used]}
            lock = InstalledLock(context, packages, parts)
    stages.append(System(context, tree))
    return finish(context, stages, Image(context), lock, packages=packages, sources=sources)
