"""Builds a spec: plan, run, deliver; or finds that everything is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit import __version__
from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.host.apt_sources import os_release
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext, context_for
from imagekit.installs.methods import method_called
from imagekit.pipeline.deliver import BuildDirectory, deliver, plan_digest, rewrite_manifest
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute, needed
from imagekit.pipeline.plan import Plan, why
from imagekit.pipeline.store import Store
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock

DESCRIBED = (("kernel", "kernel-report"), ("facts", "facts"), ("packages", "package-list"))
"""What a manifest says of the image, if one is made here, and the role of its artefact."""
RECORDED_TOOLS = ["mmdebstrap", "mke2fs", "sfdisk", "grub-mkimage", "qemu-img", "tar"]


@dataclass(frozen=True)
class PlannedStage:
    """A line of ``imagekit plan``: whether the stage would run, and why."""

    name: str
    title: str
    key: str
    cached: bool
    why: str


def plan_for(context: BuildContext) -> Plan:
    """The plan of ``context`` by its spec's install method. Pure; raises SpecError, HostError."""
    file = context.file
    method = method_called(file.spec.install.method, file.where("install", "method"))
    return method.plan(context)


def outlook(context: BuildContext, store: Store) -> list[PlannedStage]:
    """What a build would do now. Writes nothing."""
    file, plan = context.file, plan_for(context)
    verdict = needed(plan, store, fresh=False)
    stages = []
    for planned in plan.stages:
        name = planned.stage.name
        must_run = verdict.get(name, False)
        if name not in verdict:
            reason = "not needed: later results are stored"
        elif must_run:
            reason = why(planned, store.last(f"{file.spec.name} {name}"))
        else:
            reason = "stored"
        stages.append(PlannedStage(name, planned.stage.title, planned.key, not must_run, reason))
    return stages


def build(
    file: SpecFile,
    out: Path,
    events: Events,
    *,
    fresh: bool = False,
    force: bool = False,
    lock: Lock | None = None,
    debs: Path | None = None,
    called: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build ``file`` into the directory ``out`` and return the manifest.

    ``called`` is where the configs say the files are, if that is not ``out``.
    ``fresh`` runs every stage again; ``force`` allows overwriting what no build of this guest
    made. With ``lock`` exactly its packages are installed, with its SOURCE_DATE_EPOCH; the
    directory ``debs``, if given, holds them. ``environment`` has the variables that the spec's
    secrets name, and SOURCE_DATE_EPOCH; default is this process's. Raises ImagekitError; then
    ``out`` is as it was.
    """
    name = file.spec.name
    directory = BuildDirectory(out.absolute())
    variables = os.environ if environment is None else environment
    context = context_for(file, called or out, variables, lock=lock, debs=debs)
    plan = plan_for(context)
    with directory.locked():
        if not fresh and directory.intact(plan_digest(plan)):
            return _untouched(plan, directory, file, events)
        directory.refuse_strangers(name, force=force)
        events.emit("build-started", name=name, directory=str(out), stages=len(plan.stages))
        results = execute(plan, Store(), events, guest=name, fresh=fresh, digest=sha256_sparse)
        manifest = _manifest(file, plan, results)
        events.emit("stage-started", stage="deliver", title="writing the build directory", key="")
        manifest = deliver(plan, results, directory, manifest, _copy)
        seconds = sum(r.seconds for r in results.values())
        events.emit("build-finished", name=name, directory=str(out), seconds=round(seconds, 3))
        return manifest


def _copy(source: Path, target: Path) -> None:
    copy_sparse(source, target)


def _untouched(
    plan: Plan, directory: BuildDirectory, file: SpecFile, events: Events
) -> dict[str, Any]:
    manifest = directory.manifest() or {}
    if manifest.get("spec_sha256") != file.sha256:
        manifest["spec_sha256"] = file.sha256
        rewrite_manifest(directory, manifest)
    manifest["stages"] = [
        {"name": p.stage.name, "key": p.key, "cached": True, "seconds": 0.0} for p in plan.stages
    ]
    for planned in plan.stages:
        events.emit(
            "stage-finished", stage=planned.stage.name, cached=True, seconds=0.0, key=planned.key
        )
    events.emit("build-finished", name=file.spec.name, directory=str(directory.path), seconds=0.0)
    return manifest


def _manifest(file: SpecFile, plan: Plan, results: Mapping[str, StageResult]) -> dict[str, Any]:
    def artefact(name: str) -> Any:
        result = results.get(plan.maker(name).stage.name)
        return json.loads(result.entry.files[name].read_text()) if result else None

    stages = []
    for planned in plan.stages:
        result = results.get(planned.stage.name)
        stages.append(
            {
                "name": planned.stage.name,
                "key": planned.key,
                "cached": result.cached if result else True,
                "seconds": round(result.seconds, 3) if result else 0.0,
            }
        )
    host = os_release()
    made = {target.role: target.artefact for target in plan.targets}
    return {
        "manifest_version": 1,
        "name": file.spec.name,
        "spec_sha256": file.sha256,
        "imagekit": __version__,
        "install_method": file.spec.install.method,
        "os": {"distribution": file.spec.os.distribution, "suite": file.spec.os.suite},
        "proof": file.spec.proof.model_dump(mode="json"),
        **{key: artefact(made[role]) for key, role in DESCRIBED if role in made},
        "stages": stages,
        "tools": {"host": host.get("PRETTY_NAME", "unknown"), **tool_versions(RECORDED_TOOLS)},
    }
