"""Proves that guests boot: under a real Xen in an emulated machine, or as plain machines."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.errors import HostError, ImageError, SpecError, ToolError
from imagekit.host.run import kill
from imagekit.pipeline.events import Events
from imagekit.pipeline.lanes import Queue, available_mib, lanes_for, run_lanes
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.proof import plain
from imagekit.proof.boots import (
    Trial,
    Wanted,
    check_trial,
    trial_of_config,
    trials_of_build,
    under_each,
)
from imagekit.proof.console import clean, expectation
from imagekit.proof.lab import Lab, best_lab
from imagekit.proof.machine import DOM0_MIB, Shape, machine
from imagekit.proof.netboot import check_tree, program_path, ship_tree
from imagekit.proof.observed import boot_of
from imagekit.proof.outcome import require_up
from imagekit.proof.report import Boot, Failure, Outcome, ProofReport
from imagekit.proof.session import Rules, Session, conclude
from imagekit.proof.versions import LabVersions
from imagekit.proof.xens import LabXen, named
from imagekit.spec.manifest import read_manifest
from imagekit.spec.model import Proof

DIRECTORY = "proof"
RESERVE_MIB = 320
"""Beside dom0 and guest: Xen itself and what an HVM guest's device model maps."""


@dataclass(frozen=True)
class Options:
    """How to prove. ``timeout`` in seconds; ``fresh`` builds the lab again.

    ``jobs``: how many guests at a time; None for one on each processor.
    ``netboot`` is a published tree that the lab serves to guests and to their bootloader.
    ``expect`` is the regular expression that means up, in place of the spec's. With ``strict``
    a guest that is up with a finding has failed; None for what the spec says.
    ``xens``: under which Xens; empty for those that the spec names.
    """

    wanted: Wanted = field(default_factory=Wanted)
    under: str = "xen"
    timeout: float | None = None
    keep: bool = False
    fresh: bool = False
    jobs: int | None = None
    proof: Proof = field(default_factory=Proof)
    netboot: Path | None = None
    expect: str | None = None
    strict: bool | None = None
    xens: tuple[LabXen, ...] = ()


DEFAULTS = Options()


def prove(build: Path, events: Events, options: Options = DEFAULTS) -> ProofReport:
    """Prove the build in ``build`` and write ``proof.json`` and ``proof/`` there.

    Raises SpecError or CapabilityError for what cannot be proven, HostError, ToolError. Whether
    the guests came up is in the report.
    """
    options = _with_manifest(build, options)
    if options.under == "qemu":
        out = build / DIRECTORY
        report = plain.prove_build(build, out, events, _rules(options), options.wanted.formats)
    else:
        trials = trials_of_build(build, options.wanted, build / DIRECTORY)
        report = _under_xen(trials, build / DIRECTORY, events, options)
    return _written(report, build, options)


def prove_image(
    config: Path, image: Path | None, out: Path, events: Events, options: Options = DEFAULTS
) -> ProofReport:
    """Prove somebody else's config and image; the report goes to the directory ``out``."""
    toolstack, *more = options.wanted.toolstacks or ("xl",)
    if more:
        raise SpecError("one config is for one toolstack", where="--toolstack")
    trials = trial_of_config(config, image, toolstack)
    if options.under == "qemu":
        report = plain.prove_trials(trials, out / DIRECTORY, events, _rules(options))
    else:
        report = _under_xen(trials, out / DIRECTORY, events, options)
    return _written(report, out, options)


def _written(report: ProofReport, directory: Path, options: Options) -> ProofReport:
    strict = options.proof.strict if options.strict is None else options.strict
    if strict:
        report = replace(report, boots=tuple(boot.strictly() for boot in report.boots))
    report.write(directory)
    return report


def prove_build(
    directory: Path,
    spec_proof: Proof | None,
    events: Events,
    *,
    under: str = "xen",
    timeout: float | None = None,
    keep: bool = False,
) -> ProofReport:
    """Prove a build as its spec asks; raises ProofError, InconclusiveError unless all come up.

    For ``build --prove``, before anything is published. Writes ``proof.json`` and ``proof/`` to
    ``directory``, also when guests fail.
    """
    proof = spec_proof or Proof()
    wanted = Wanted.checked(modes=proof.modes, toolstacks=proof.toolstacks)
    options = Options(wanted=wanted, under=under, timeout=timeout, keep=keep, proof=proof)
    report = prove(directory, events, options)
    require_up(report)
    return report


def _with_manifest(build: Path, options: Options) -> Options:
    """The spec's wishes travel in the manifest; what the user says now comes first."""
    proof = read_manifest(build).proof
    if options.proof != Proof() or proof is None:
        return options
    wanted = options.wanted
    if not wanted.modes and proof.modes:
        wanted = replace(wanted, modes=tuple(proof.modes))
    wanted = replace(wanted, toolstacks=wanted.toolstacks or tuple(proof.toolstacks))
    return replace(options, proof=proof, wanted=wanted)


def _rules(options: Options) -> Rules:
    proof = options.proof
    up = expectation(options.expect or proof.expect)
    return Rules(up, options.timeout, float(proof.timeout), proof.command)


def _under_xen(trials: Sequence[Trial], out: Path, events: Events, options: Options) -> ProofReport:
    rules = _rules(options)
    _check_netboot(trials, options)
    xens = options.xens or named(options.proof.xen, "proof.xen")
    trials = under_each(trials, [xen.version for xen in xens])
    broken = {trial.ident: failure for trial in trials if (failure := _damage(trial))}
    sound = [trial for trial in trials if trial.ident not in broken]
    seconds: dict[str, float] = {}
    boots: dict[str, Boot] = {}
    ran_on: list[LabVersions] = []
    if sound:
        memory, state_is_useful = _memory(sound)
        count = lanes_for(len(sound), memory, available_mib(), options.jobs)
        with workspace(events) as space:
            labs: dict[str, _Lab] = {}
            needed = _needed(sound, xens)
            for name, xen in needed.items():
                suffix = f"-{name}" if len(needed) > 1 else ""
                shape = xen.shape(memory)
                started = time.monotonic()
                made = best_lab(xen, shape, events, state=state_is_useful, fresh=options.fresh)
                ran_on.append(made.versions)
                seconds[f"lab{suffix}"] = round(time.monotonic() - started, 1)
                labs[name] = _Lab(space, made, options.netboot, suffix)
            lanes = _Lanes(labs, out, events, rules, seconds, keep=options.keep)
            boots = lanes.prove(sound, count)
    for trial in trials:
        if trial.ident in broken:
            boots[trial.ident] = _not_tried(trial, broken[trial.ident])
    ordered = tuple(boots[trial.ident] for trial in trials)
    return ProofReport("xen", ordered, seconds, tuple(ran_on))


def _needed(trials: Sequence[Trial], xens: Sequence[LabXen]) -> dict[str, LabXen]:
    """What each lab that ``trials`` name is made of, in the order of ``xens``."""
    return {
        trial.lab: xen.having(trial.config.toolstack)
        for xen in xens
        for trial in trials
        if trial.xen == xen.version
    }


@dataclass
class _Lab:
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
class _Lanes:
    """The trials spread over machines, each of which runs one lab at a time."""

    labs: dict[str, _Lab]
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


def _memory(trials: Sequence[Trial]) -> tuple[int, bool]:
    """MiB that hold the largest guest beside dom0, and whether the usual saved state fits them."""
    usual = Shape()
    needed = DOM0_MIB + max(trial.config.memory_mib for trial in trials) + RESERVE_MIB
    memory = max(usual.memory_mib, -(-needed // 512) * 512)
    free = available_mib()
    if memory > free:
        raise HostError(
            f"the proof needs {memory} MiB of memory and {free} MiB are free",
            hint="prove a guest with less memory, or on a larger host",
        )
    return memory, memory == usual.memory_mib


def _check_netboot(trials: Sequence[Trial], options: Options) -> None:
    if options.netboot is not None:
        check_tree(options.netboot)
        return
    for trial in trials:
        if program_path(trial.config.bootloader):
            raise SpecError(
                "pypxeboot needs a boot server",
                where=str(trial.config.path),
                hint="--netboot DIR serves what imagekit netboot publish wrote there",
            )


def _damage(trial: Trial) -> Failure | None:
    try:
        check_trial(trial)
    except (ImageError, ToolError) as error:
        return Failure("image-damaged", error.what, error.hint, str(error.where or "") or None)
    return None


def _lab_lost(trial: Trial, error: ToolError) -> Boot:
    words = [line.strip() for line in clean(error.output.encode()).splitlines() if line.strip()]
    failure = Failure(
        "lab-lost",
        f"{error.what}, which says nothing about the guest",
        "prove it again; if the lab ends again, this guest needs another mode, boot path or Xen",
        words[-1][:300] if words else None,
    )
    return _not_tried(trial, failure, Outcome.INCONCLUSIVE)


def _not_tried(trial: Trial, failure: Failure, outcome: Outcome = Outcome.FAILED) -> Boot:
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
