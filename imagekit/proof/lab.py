"""Builds the lab: the hypervisor and a small dom0, made by imagekit's own stages and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.disk.extents import sha256_sparse
from imagekit.errors import LabError, ToolError
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import mirrors_for
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.pipeline.store import Store
from imagekit.proof.labimage import LabImage
from imagekit.proof.labrootfs import LabRootfs
from imagekit.proof.labstate import LabState
from imagekit.proof.machine import LabFiles, Shape, lab_files
from imagekit.proof.nested import nested_kvm
from imagekit.proof.selfcheck.stage import CheckLab
from imagekit.proof.selfcheck.verdict import LabCheck
from imagekit.proof.tools import LabTools, build_tools
from imagekit.proof.versions import LabVersions, lab_versions
from imagekit.proof.xens import LabXen
from imagekit.spec.load import load_spec


def lab_plan(
    xen: LabXen, shape: Shape, tools: LabTools, *, state: bool, saved: bool = True
) -> Plan:
    """The stages that make and check the lab of ``xen`` from its shipped spec.

    HVM guests get the firmware of ``tools``. ``state`` asks for the saved state. The check serves
    machines of every size: it is made in the usual one, from its saved state if that can be
    ``saved``.
    """
    usual = replace(shape, memory_mib=Shape().memory_mib)
    file = load_spec(xen.spec)
    context = BuildContext(file, Path())
    install = file.spec.debootstrap
    packages = sorted({*install.packages, *xen.added, str(install.kernel)})
    image = LabImage(file, tools)
    check = CheckLab(usual, tools, state=saved)
    stages: list[Stage] = [LabRootfs(context, mirrors_for(file), packages), image, check]
    if saved:
        stages.append(LabState(usual, tools.emulator))
    names = [*image.makes, *check.makes, *(["state"] if state else [])]
    return make_plan(stages, [Target(name, name, "lab") for name in names], context.environment)


@dataclass(frozen=True)
class Lab:
    """A lab that is right: its machine, what it boots, its saved state (if any), what it is of."""

    shape: Shape
    files: LabFiles
    state: Path | None
    tools: LabTools
    versions: LabVersions
    check: LabCheck


def best_lab(
    xen: LabXen, shape: Shape, events: Events, *, state: bool = True, fresh: bool = False
) -> Lab:
    """The lab by KVM where nesting works and the self-check passes, else by emulation.

    Otherwise as :func:`build_lab`.
    """
    if nested_kvm().works:
        try:
            fast = replace(shape, accelerator="kvm")
            return build_lab(xen, fast, events, state=state, fresh=fresh)
        except (LabError, ToolError) as error:
            events.emit("warning", text=f"KVM does not run the lab, emulation does: {error.what}")
    return build_lab(xen, shape, events, state=state, fresh=fresh)


def build_lab(
    xen: LabXen, shape: Shape, events: Events, *, state: bool = True, fresh: bool = False
) -> Lab:
    """The lab of ``xen`` from the store, or built and checked now.

    Raises LabError when it does not work. Without ``state``, which only the usual size of a
    machine has, no saved state is given.
    """
    guest = f"imagekit-lab-{xen.version}"
    tools = build_tools(events, fresh=fresh)
    # What holds the tools holds the rest of the lab too, until nobody has the lab any more.
    store = tools.store
    plan = lab_plan(xen, shape, tools, state=state)
    try:
        results = _run(plan, store, events, guest, fresh=fresh)
    except ToolError as error:
        if "saved" not in error.what:
            raise
        events.emit("warning", text=error.what)
        plan = lab_plan(xen, shape, tools, state=False, saved=False)
        results = _run(plan, store, events, guest, fresh=False)
    wanted = {target.artefact for target in plan.targets}
    found = {
        name: path
        for result in results.values()
        for name, path in result.entry.files.items()
        if name in wanted
    }
    image = results[LabImage.name].entry
    check = LabCheck.read(found["check.json"])
    versions = lab_versions(found["versions.json"], image.sha256, tools)
    versions = replace(versions, accelerator=shape.accelerator, check=str(check))
    files = lab_files(found, tools.emulator)
    return Lab(shape, files, found.get("state"), tools, versions, check)


def _run(
    plan: Plan, store: Store, events: Events, guest: str, *, fresh: bool
) -> dict[str, StageResult]:
    return execute(plan, store, events, guest=guest, fresh=fresh, digest=sha256_sparse)
