"""Runs the stages of a plan that the store does not hold, and only those that are needed."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, ImagekitError
from imagekit.host import run as host_run
from imagekit.pipeline.events import Events
from imagekit.pipeline.plan import Plan, Planned
from imagekit.pipeline.result_store import ResultStore
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.store import Digest, Entry, Made
from imagekit.pipeline.workspace import Workspace, cache_root, workspace


@dataclass(frozen=True)
class StageResult:
    """What became of a stage: from the store or run just now, in how many seconds."""

    planned: Planned
    entry: Entry
    cached: bool
    seconds: float


def needed(plan: Plan, store: ResultStore, *, fresh: bool) -> dict[str, bool]:
    """Stage name to "must run" for every stage the targets need, walking back from them.

    What ``store`` has elsewhere is fetched. With ``fresh`` nothing in the store counts. Stages
    behind a stored result are not listed.
    """
    verdict: dict[str, bool] = {}
    queue = [plan.maker(t.artefact) for t in plan.targets]
    while queue:
        planned = queue.pop()
        name = planned.stage.name
        if name in verdict:
            continue
        verdict[name] = fresh or _obtained(planned, store) is None
        if verdict[name]:
            queue += [plan.maker(n) for n in planned.stage.needs]
    return verdict


def _obtained(planned: Planned, store: ResultStore) -> Entry | None:
    stage = planned.stage
    return store.obtain(planned.key, list(stage.makes), shared=stage.shared)


def execute(
    plan: Plan, store: ResultStore, events: Events, *, guest: str, fresh: bool, digest: Digest
) -> dict[str, StageResult]:
    """Run what is needed; returns the result of every stage in question, by stage name.

    ``digest`` gives the SHA-256 of an artefact that is delivered. A failure leaves nothing in the
    store for its stage; its tools' logs go to ``IMAGEKIT_CACHE/logs``, named in the error.
    """
    verdict = needed(plan, store, fresh=fresh)
    wanted = {t.artefact for t in plan.targets}
    results: dict[str, StageResult] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(host_run.children_see(plan.environment))
        space: Workspace | None = None
        if any(verdict.values()):
            store.sweep()
            store.shrink()
            space = stack.enter_context(workspace(events))
        for planned in plan.stages:
            name = planned.stage.name
            if name not in verdict:
                continue
            events.emit("stage-started", stage=name, title=planned.stage.title, key=planned.key)
            with store.locked(planned.key):
                entry = None if fresh else store.get(planned.key, list(planned.stage.makes))
                seconds = 0.0
                cached = entry is not None
                if entry is not None:
                    planned.stage.used(entry.files, store.pool)
                else:
                    if space is None:
                        store.sweep()
                        space = stack.enter_context(workspace(events))
                    started = time.monotonic()
                    made = _made(planned, plan, guest, fresh=fresh)
                    entry = _run(planned, plan, store, space, made, results, wanted, digest)
                    seconds = time.monotonic() - started
            store.remember(f"{guest} {name}", planned.parts)
            results[name] = StageResult(planned, entry, cached, seconds)
            events.emit(
                "stage-finished",
                stage=name,
                cached=cached,
                seconds=round(seconds, 3),
                key=planned.key,
            )
    store.settle()
    store.shrink()
    return results


def _made(planned: Planned, plan: Plan, guest: str, *, fresh: bool) -> Made:
    stage = planned.stage
    inputs = tuple(dict.fromkeys(plan.maker(name).key for name in stage.needs))
    return Made(
        stage.name,
        guest,
        inputs,
        shared=stage.shared,
        replaces=fresh,
        interim=stage.interim,
        quick=stage.quick,
    )


def _inputs(
    planned: Planned, plan: Plan, store: ResultStore, results: Mapping[str, StageResult]
) -> dict[str, Path]:
    inputs = {}
    for artefact in planned.stage.needs:
        maker = plan.maker(artefact)
        done = results.get(maker.stage.name)
        entry = done.entry if done else store.get(maker.key, list(maker.stage.makes))
        if entry is None:
            raise ImagekitError(f"{artefact} vanished from the store while the build ran")
        inputs[artefact] = entry.files[artefact]
    return inputs


def _run(
    planned: Planned,
    plan: Plan,
    store: ResultStore,
    space: Workspace,
    made: Made,
    results: Mapping[str, StageResult],
    wanted: set[str],
    digest: Digest,
) -> Entry:
    stage = planned.stage
    output = store.new_output()
    logs = output / "logs"
    logs.mkdir(mode=0o700)
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2 or done >= total:
            last = now
            space.events.emit("progress", stage=stage.name, done=done, total=total)

    try:
        inputs = _inputs(planned, plan, store, results)
        stage.run(StageRun(space, inputs, output, logs, progress, store.pool))
        digests = {n: digest(output / n) for n in stage.makes if n in wanted}
        return store.put(planned.key, output, stage.makes, digests, made)
    except BaseException as error:
        kept = _keep_logs(logs, made.guest, stage.name)
        space.events.emit("stage-failed", stage=stage.name, error=str(error), logs=str(kept or ""))
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, ImagekitError) and kept and error.hint:
            error.hint = error.hint.replace(str(logs), str(kept))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(
                f"no space left while {stage.title}",
                where=str(error.filename or store.root),
                hint="imagekit cache prune --all, or set IMAGEKIT_CACHE to a larger file system",
            ) from error
        raise


def _keep_logs(logs: Path, guest: str, stage: str) -> Path | None:
    files = [f for f in logs.iterdir() if f.is_file() and f.stat().st_size]
    if not files:
        return None
    target = cache_root() / "logs" / f"{guest}-{stage}"
    with contextlib.suppress(OSError):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True, mode=0o700)
        for file in files:
            shutil.copyfile(file, target / file.name)
            (target / file.name).chmod(0o600)
        return target
    return None
