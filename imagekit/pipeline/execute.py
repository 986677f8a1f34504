"""Runs the stages of a plan that the store does not hold, and only those that are needed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import BusyError, HostError, ImagekitError
from imagekit.host import run as host_run
from imagekit.pipeline.events import Events
from imagekit.pipeline.lanes import Queue, run_lanes
from imagekit.pipeline.plan import Plan, Planned
from imagekit.pipeline.result_store import ResultStore
from imagekit.pipeline.schedule import Schedule
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.store import Digest, Entry, Made
from imagekit.pipeline.workspace import Workspace, cache_root, workspace

LOCK_SECONDS = 3600.0
"""How long a stage that another build works on is waited for."""


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

    Stages that do not need each other run side by side, one a processor. The first that fails, or a
    signal, ends the others. ``digest`` gives the SHA-256 of an artefact that is delivered. A
    failure leaves nothing in the store for its stage; its tools' logs go to
    ``IMAGEKIT_CACHE/logs``, named in the error.
    """
    verdict = needed(plan, store, fresh=fresh)
    stages = [planned for planned in plan.stages if planned.stage.name in verdict]
    running = sum(verdict.values())
    with contextlib.ExitStack() as stack:
        stack.enter_context(host_run.children_see(plan.environment))
        # Even if everything is stored: a result may vanish yet.
        spaces = _Spaces(stack, events, store)
        if running:
            store.shrink()
            spaces.get()
        schedule = Schedule(plan, stages)
        wanted = {t.artefact for t in plan.targets}
        work = _Execution(plan, store, events, spaces, schedule, guest, wanted, digest, fresh=fresh)
        lanes = max(1, min(len(os.sched_getaffinity(0)), running))
        run_lanes(schedule, lanes, work.lane, host_run.kill_all)
    store.settle()
    store.shrink()
    return {p.stage.name: work.results[p.stage.name] for p in stages}


class _Spaces:
    """The workspace of a run, opened when it is needed first.

    That is in the main thread, which signals reach: several lanes are there only with one open.
    """

    def __init__(self, stack: contextlib.ExitStack, events: Events, store: ResultStore) -> None:
        self._stack = stack
        self._events = events
        self._store = store
        self._space: Workspace | None = None

    def get(self) -> Workspace:
        if self._space is None:
            self._store.sweep()
            self._space = self._stack.enter_context(workspace(self._events))
        return self._space


@dataclass
class _Execution:
    """A plan that is being executed; its methods run in several threads."""

    plan: Plan
    store: ResultStore
    events: Events
    spaces: _Spaces
    schedule: Schedule
    guest: str
    wanted: set[str]
    digest: Digest
    fresh: bool
    results: dict[str, StageResult] = field(default_factory=dict)

    def lane(self, queue: Queue[Planned]) -> None:
        """Perform what the queue gives, until there is nothing left or another lane has failed."""
        for planned in queue:
            try:
                self._perform(planned)
            except Exception as error:
                if queue.ended.is_set():  # what it says is how it was ended
                    raise ImagekitError("stopped, because another stage failed") from error
                raise

    def _perform(self, planned: Planned) -> None:
        stage, key = planned.stage, planned.key
        self._started(planned)
        with self._locked(key):
            entry = None if self.fresh else self.store.get(key, list(stage.makes))
            seconds = 0.0
            cached = entry is not None
            if entry is not None:
                stage.used(entry.files, self.store.pool)
            else:
                started = time.monotonic()
                entry = self._run(planned)
                seconds = time.monotonic() - started
        self._done(StageResult(planned, entry, cached, seconds))

    def _started(self, planned: Planned) -> None:
        stage = planned.stage
        self.events.emit("stage-started", stage=stage.name, title=stage.title, key=planned.key)

    def _done(self, result: StageResult) -> None:
        planned = result.planned
        name = planned.stage.name
        self.store.remember(f"{self.guest} {name}", planned.parts)
        self.results[name] = result
        self.events.emit(
            "stage-finished",
            stage=name,
            cached=result.cached,
            seconds=round(result.seconds, 3),
            key=planned.key,
        )

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """The store's lock of ``key``, waited for as long as no other lane fails."""
        with contextlib.ExitStack() as stack:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                self._go_on()
                try:
                    stack.enter_context(self.store.locked(key, wait_seconds=1))
                    break
                except BusyError:
                    if time.monotonic() > deadline:
                        raise
            yield

    def _go_on(self) -> None:
        if self.schedule.ended.is_set():
            raise ImagekitError("stopped, because another stage failed")

    def _inputs(self, planned: Planned) -> dict[str, Path]:
        inputs = {}
        for artefact in planned.stage.needs:
            maker = self.plan.maker(artefact)
            done = self.results.get(maker.stage.name)
            entry = done.entry if done else self.store.get(maker.key, list(maker.stage.makes))
            if entry is None:
                raise ImagekitError(f"{artefact} vanished from the store while the build ran")
            inputs[artefact] = entry.files[artefact]
        return inputs

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            self._go_on()
            now = time.monotonic()
            if now - last > 0.2 or done >= total:
                last = now
                self.events.emit("progress", stage=stage, done=done, total=total)

        return progress

    def _made(self, planned: Planned) -> Made:
        stage = planned.stage
        inputs = tuple(dict.fromkeys(self.plan.maker(name).key for name in stage.needs))
        return Made(
            stage.name,
            self.guest,
            inputs,
            shared=stage.shared,
            replaces=self.fresh,
            interim=stage.interim,
            quick=stage.quick,
        )

    def _run(self, planned: Planned) -> Entry:
        stage, space, store = planned.stage, self.spaces.get(), self.store
        output = store.new_output()
        logs = output / "logs"
        logs.mkdir(mode=0o700)
        try:
            inputs, progress = self._inputs(planned), self._progress(stage.name)
            stage.run(StageRun(space, inputs, output, logs, progress, store.pool))
            digests = {n: self.digest(output / n) for n in stage.makes if n in self.wanted}
            return store.put(planned.key, output, stage.makes, digests, self._made(planned))
        except BaseException as error:
            kept = _keep_logs(logs, self.guest, stage.name)
            kind = "stage-stopped" if self.schedule.ended.is_set() else "stage-failed"
            self.events.emit(kind, stage=stage.name, error=str(error), logs=str(kept or ""))
            shutil.rmtree(output, ignore_errors=True)
            if isinstance(error, ImagekitError) and kept and error.hint:
                error.hint = error.hint.replace(str(logs), str(kept))
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_space(stage.title, str(error.filename or store.root)) from error
            raise


def _no_space(title: str, where: str) -> HostError:
    return HostError(
        f"no space left while {title}",
        where=where,
        hint="imagekit cache prune --all, or set IMAGEKIT_CACHE to a larger file system",
    )


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
