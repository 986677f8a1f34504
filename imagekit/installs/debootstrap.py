"""The plan of a debootstrap build: packages, elements, system, and how every build ends."""

from __future__ import annotations

from collections.abc import Set
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
from imagekit.installs.stages.packages import Packages
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.system import System
from imagekit.installs.tree_packages import base_packages, wanted_packages
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
    wanted = {*wanted_packages(spec), *(elements.packages if elements else ())}
    stages: list[Stage] = []
    tree, packages, sources = "rootfs.tar", "packages.json", None
    if elements is None or not elements.provided:
        stages += tree_stages(context, mirrors, wanted)
        tree, packages, sources = stages[-1].makes
    lock: Stage = LockFile(context, used, sources or "sources.json")
    if elements is not None:
        phases = element_stages(context, elements, "" if elements.provided else tree)
        tree, packages = phases[-1].tree_artefact, CleanupPhase.PACKAGES
        stages += phases
        if elements.provided:
            parts = {"elements": [e.model_dump(mode="json") for e in used]}
            lock = InstalledLock(context, packages, parts)
    stages.append(System(context, tree))
    return finish(context, stages, Image(context), lock, packages=packages, sources=sources)


def tree_stages(context: BuildContext, mirrors: Mirrors, wanted: Set[str]) -> list[Stage]:
    """The stages that install the packages ``wanted``: a base that specs share, and the rest.

    All at once where the base may not be what the rest needs: debootstrap has its own, and packages
    of a given version may want to be older.
    """
    base = base_packages(context.spec)
    more = sorted(wanted - {*base})
    if context.spec.debootstrap.tool != "mmdebstrap" or any("=" in name for name in wanted):
        return [Rootfs(context, mirrors, sorted(wanted))]
    first = Rootfs(context, mirrors, base, more=bool(more))
    return [first, Packages(context, mirrors, more)] if more else [first]
