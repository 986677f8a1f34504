"""Trials spread over labs that run side by side."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import ToolError
from imagekit.host.run import kill
from imagekit.pipeline.events import Events
from imagekit.pipeline.lanes import Queue, run_lanes
from imagekit.pipeline.workspace import Workspace
from imagekit.proof.boots import Trial
from imagekit.proof.bootserver import ship_tree
from imagekit.proof.console import clean
from imagekit.proof.lab import Lab
from imagekit.proof.machine import machine
from imagekit.proof.observed import boot_of
from imagekit.proof.report import Boot, Failure, Outcome
from imagekit.proof.session import Rules, Session, conclude


@dataclass
class StartableLab:
    """A lab that is built; ``suffix`` tells its times and logs from another lab's."""

    space: Workspace
    lab: Lab
    netboot: Path | None = None
    suffix: str = ""
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def stop(self) -> None:
        """End what runs of it."""
        for process in list(self._running):
            kill(process)

    @contextlib.contextmanager
    def awake(
        self, queue: Queue[tuple[int, Trial]], events: Events, log_to: Path | None
    ) -> Iterator[Session]:
        """A lab whose agent answers: from the saved state, or started anew if that fails."""
        with contextlib.ExitStack() as stack:
            try:
                session = stack.enter_context(self._start(events, self.lab.state, log_to))
            except ToolError as error:
                if self.lab.state is None or queue.ended.is_set():
                    raise
                events.emit("warning", text=f"the lab's saved state is no good: {error.what}")
                session = stack.enter_context(self._start(events, None, log_to))
            yield session

    @contextlib.contextmanager
    def _start(self, events: Events, state: Path | None, log_to: Path | None) -> Iterator[Session]:
        share = self.space.temporary("share")
        read_only = self.space.temporary("files")
        scratch = self.space.temporary("lab")
        number = next(self._numbers)
        if self.netboot is not None:
            ship_tree(self.netboot, read_only / "www")
        try:
            with (
                machine(
                    self.lab.shape,
                    self.lab.files,
                    share=share,
                    read_only=read_only,
                    scratch=scratch,
                    state=state,
                ) as running,
                self._known(running.process),
            ):
                if state is None:
                    running.wait_for("LAB-READY", 300)
                session = Session(running, share, read_only, scratch, events)
                session.begin()
                yield session
        finally:
            log = scratch / "lab.log"
            if log_to is not None and log.is_file():
                more = "" if number == 1 else f"-{number}"
                shutil.copyfile(log, log_to / f"lab{self.suffix}{more}.log")

    @contextlib.contextmanager
    def _known(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Let :meth:`stop` find the machine for the length of a block."""
        self._running.add(process)
        try:
            yield
        finally:
            self._running.discard(process)


@dataclass(frozen=True)
class LabLanes:
    """The trials spread over machines, each of which runs one lab at a time."""

    labs: dict[str, StartableLab]
    out: Path
    events: Events
    rules: Rules
    seconds: dict[str, float]
    keep: bool
    boots: dict[str, Boot] = field(default_factory=dict)

    def prove(self, trials: Sequence[Trial], count: int) -> dict[str, Boot]:
        """Run the trials in ``count`` machines side by side, and report each."""
        self.out.mkdir(parents=True, exist_ok=True)
        # The longest first, so that no lane is left alone with it at the end; then each lab in one
        # go, because another one is another machine.
        order = list(self.labs)
        queue = Queue(
            sorted(
                enumerate(trials),
                key=lambda item: (item[1].config.mode != "hvm", order.index(item[1].lab)),
            )
        )
        started = time.monotonic()
        run_lanes(queue, count, self._lane, self._stop)
        self.seconds["all guests"] = round(time.monotonic() - started, 1)
        return self.boots

    def _lane(self, queue: Queue[tuple[int, Trial]]) -> None:
        session, running = None, ""
        with contextlib.ExitStack() as stack:
            for number, trial in queue:
                if session is None or running != trial.lab:
                    stack.close()
                    session = self._started(stack, queue, trial.lab)
                    running = trial.lab
                before = time.monotonic()
                try:
                    boot = boot_of(session.run(trial, number, self.rules), self.out)
                except ToolError as error:
                    if queue.ended.is_set():
                        raise
                    # What other guests showed must not be lost with this machine.
                    conclude(self.events, trial.ident, "lab", time.monotonic() - before)
                    boot, session = _lab_lost(trial, error), None
                self.boots[trial.ident] = boot
                self.seconds[trial.ident] = round(time.monotonic() - before, 1)

    def _started(
        self, stack: contextlib.ExitStack, queue: Queue[tuple[int, Trial]], name: str
    ) -> Session:
        lab, started = self.labs[name], time.monotonic()
        session = stack.enter_context(
            lab.awake(queue, self.events, self.out if self.keep else None)
        )
        self.seconds.setdefault(f"lab start{lab.suffix}", round(time.monotonic() - started, 1))
        return session

    def _stop(self) -> None:
        for lab in self.labs.values():
            lab.stop()


def _lab_lost(trial: Trial, error: ToolError) -> Boot:
    words = [line.strip() for line in clean(error.output.encode()).splitlines() if line.strip()]
    failure = Failure(
        "lab-lost",
        f"{error.what}, which says nothing about the guest",
        "prove it again; if the lab ends again, this guest needs another mode, boot path or Xen",
        words[-1][:300] if words else None,
    )
    return not_tried(trial, failure, Outcome.INCONCLUSIVE)


def not_tried(trial: Trial, failure: Failure, outcome: Outcome = Outcome.FAILED) -> Boot:
    """What is reported of a trial that was not booted, or whose lab was lost."""
    config = trial.config
    return Boot(
        ident=trial.ident,
        name=config.name,
        mode=config.mode,
        boot=config.boot,
        format=trial.format,
        config=str(config.path),
        config_sha256=config.sha256,
        outcome=outcome,
        xen=trial.xen,
        toolstack=config.toolstack,
        dhcp={nic.mac: None for nic in config.nics if nic.mac},
        failure=failure,
    )
