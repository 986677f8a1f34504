"""Builds a spec: plan, run, deliver; or finds that everything is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imagekit import __version__
from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.domain.facts import BuildFacts, facts_text, read_facts
from imagekit.host.apt_sources import os_release
from imagekit.host.sandbox.means import lost
from imagekit.host.sandbox.network import let_through, loopback_forwards
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.methods import method_called
from imagekit.installs.mirrors import reached
from imagekit.installs.preflight import check_host, check_writable, warnings
from imagekit.installs.start import is_outdated, start
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.configured import configured_store
from imagekit.pipeline.deliver import deliver, plan_digest, rewrite_manifest
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute, needed
from imagekit.pipeline.plan import Plan, Planned, why
from imagekit.pipeline.result_store import ResultStore
from imagekit.pipeline.workspace import cache_root
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, StageRecord, parse_manifest

FACTS = "facts.json"
DESCRIBED = (("kernel", "kernel-report"), ("packages", "package-list"))
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


def outlook(context: BuildContext, store: ResultStore) -> list[PlannedStage]:
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


def build(  # noqa: PLR0913 - an option of "imagekit build" each
    file: SpecFile,
    out: Path,
    events: Events,
    *,
    fresh: bool = False,
    force: bool = False,
    verify: bool = False,
    lock: Lock | None = None,
    debs: Path | None = None,
    unique: str = "",
    called: Path | None = None,
    environment: Mapping[str, str] | None = None,
    store_remote: Path | None = None,
) -> Manifest:
    """Build ``file`` into the directory ``out`` and return the manifest.

    ``called`` is where the configs say the files are, if that is not ``out``.
    ``fresh`` runs every stage again; ``force`` allows overwriting what no build of this guest
    made; ``verify`` reads all that was stored and delivered, and makes anew what is damaged. With
    ``lock`` exactly its packages are installed, with its SOURCE_DATE_EPOCH; the directory ``debs``,
    if given, holds them. Identifiers follow from the random text ``unique``, if given, instead of
    from the spec. ``environment`` has the variables that the spec's secrets name, and
    SOURCE_DATE_EPOCH; default is this process's. ``store_remote`` is a directory of results that
    machines share; default is the one that is set. Raises ImagekitError; then ``out`` is as it was.
    """
    name = file.spec.name
    directory = BuildDirectory(out.absolute(), sha256_sparse)
    check_writable(directory.path, "choose another directory with -o")
    variables = os.environ if environment is None else environment
    begin = partial(start, file, called or out, variables, lock=lock, debs=debs, unique=unique)
    context = begin(fresh=fresh)
    plan = plan_for(context)
    with directory.locked():
        known = directory.manifest()
        if known and not fresh and directory.intact(plan_digest(plan), verify=verify):
            return _untouched(known, plan, directory, file, events)
        directory.refuse_strangers(name, force=force)
        events.emit("build-started", name=name, directory=str(out), stages=len(plan.stages))
        # Named, so that it lives, and keeps the results from a prune, until they are delivered.
        store = configured_store(events, sha256_sparse, _copy, verify=verify, remote=store_remote)
        if not fresh and is_outdated(plan, needed(plan, store, fresh=False)):
            context = begin(fresh=True)
            plan = plan_for(context)
        must_run = {name for name, run in needed(plan, store, fresh=fresh).items() if run}
        check_host(directory.path, cache_root(), file.spec, must_run)
        for warning in warnings(file):
            events.emit("warning", text=warning)
        with let_through(loopback_forwards(reached(file, lock, context.host))):
            results = execute(plan, store, events, guest=name, fresh=fresh, digest=sha256_sparse)
        facts = _facts(plan, results)
        manifest = _manifest(file, plan, results, facts)
        events.emit("stage-started", stage="deliver", title="writing the build directory", key="")
        instead = {FACTS: facts_text(facts)} if facts else {}
        manifest = deliver(plan, results, directory, manifest, _copy, instead)
        store.condense()
        seconds = sum(r.seconds for r in results.values())
        events.emit("build-finished", name=name, directory=str(out), seconds=round(seconds, 3))
        return manifest


def _copy(source: Path, target: Path) -> None:
    copy_sparse(source, target)


def _untouched(
    manifest: Manifest, plan: Plan, directory: BuildDirectory, file: SpecFile, events: Events
) -> Manifest:
    if manifest.spec_sha256 != file.sha256:
        manifest = manifest.model_copy(update={"spec_sha256": file.sha256})
        rewrite_manifest(directory, manifest)
    for planned in plan.stages:
        events.emit(
            "stage-finished", stage=planned.stage.name, cached=True, seconds=0.0, key=planned.key
        )
    events.emit("build-finished", name=file.spec.name, directory=str(directory.path), seconds=0.0)
    return manifest.model_copy(update={"stages": _stages(plan, {})})


def _stages(plan: Plan, results: Mapping[str, StageResult]) -> tuple[StageRecord, ...]:
    def record(planned: Planned) -> StageRecord:
        result = results.get(planned.stage.name)
        cached, seconds = (result.cached, round(result.seconds, 3)) if result else (True, 0.0)
        return StageRecord(name=planned.stage.name, key=planned.key, cached=cached, seconds=seconds)

    return tuple(record(planned) for planned in plan.stages)


def _facts(plan: Plan, results: Mapping[str, StageResult]) -> BuildFacts | None:
    """The facts, if there is an image, with the digests that its stages could not know.

    They belong to no stage: a disk that is made again with the same key may have other bytes.
    """
    if FACTS not in {target.artefact for target in plan.targets}:
        return None
    disks = []
    for target in plan.targets:
        if target.role == "disk":
            entry = results[plan.maker(target.artefact).stage.name].entry
            file = entry.files[target.artefact]
            # Not known if its stage was run for a build that does not deliver it.
            digest = entry.sha256.get(target.artefact) or sha256_sparse(file)
            size = file.stat().st_size
            disks.append(Artefact(role="disk", path=target.path, sha256=digest, size_bytes=size))
    return read_facts(results[plan.maker(FACTS).stage.name].entry.files[FACTS]).weighed(disks)


def _manifest(
    file: SpecFile, plan: Plan, results: Mapping[str, StageResult], facts: BuildFacts | None
) -> Manifest:
    def made(artefact: str) -> Any:
        entry = results[plan.maker(artefact).stage.name].entry
        return json.loads(entry.files[artefact].read_text())

    host = os_release()
    artefacts = {target.role: target.artefact for target in plan.targets}
    value: dict[str, Any] = {
        "name": file.spec.name,
        "spec_sha256": file.sha256,
        "imagekit": __version__,
        "install_method": file.spec.install.method,
        "os": {"distribution": file.spec.os.distribution, "suite": file.spec.os.suite},
        "proof": file.spec.proof.model_dump(mode="json"),
        "facts": facts.to_json() if facts else None,
        **{key: made(artefacts[role]) for key, role in DESCRIBED if role in artefacts},
        "stages": [stage.model_dump() for stage in _stages(plan, results)],
        "tools": {"host": host.get("PRETTY_NAME", "unknown"), **tool_versions(RECORDED_TOOLS)},
    }
    if lost():
        value["tools"]["sandbox"] = f"no {' and '.join(lost())}"
    return parse_manifest(json.dumps(value).encode(), MANIFEST)
