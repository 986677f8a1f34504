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

from imagekit.errors import HostError, ImageError, ProofError, SpecError, ToolError
from imagekit.host.run import kill
from imagekit.host.versions import package_versions
from imagekit.pipeline.events import Events
from imagekit.pipeline.lanes import Queue, available_mib, lanes_for, run_lanes
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.proof import plain
from imagekit.proof.boots import (
    Trial,
    Wanted,
    check_trial,
    manifest_of,
    trial_of_config,
    trials_of_build,
)
from imagekit.proof.console import expectation
from imagekit.proof.lab import build_lab
from imagekit.proof.machine import DOM0_MIB, LabFiles, Shape, machine
from imagekit.proof.netboot import check_tree, program_path, ship_tree
from imagekit.proof.observed import boot_of
from imagekit.proof.report import Boot, Failure, ProofReport
from imagekit.proof.session import Rules, Session
from imagekit.spec.model import Proof

DIRECTORY = "proof"
RESERVE_MIB = 320
"""Beside dom0 and guest: Xen itself and what an HVM guest's device model maps."""


@dataclass(frozen=True)
class Options:
    """How to prove. ``timeout`` in seconds; ``fresh`` builds the lab again.

    ``jobs``: how many guests at a time; None for one on each processor.
    ``netboot`` is a published tree that the lab serves to guests and to their bootloader.
    ``expect`` is the regular expression that means up, in place of the spec's.
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
    report.write(build)
    return report


def prove_image(
    config: Path, image: Path | None, out: Path, events: Events, options: Options = DEFAULTS
) -> ProofReport:
    """Prove somebody else's config and image; the report goes to the directory ``out``."""
    trials = trial_of_config(config, image)
    if options.under == "qemu":
        report = plain.prove_trials(trials, out / DIRECTORY, events, _rules(options))
    else:
        report = _under_xen(trials, out / DIRECTORY, events, options)
    report.write(out)
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
    """Prove a build as its spec asks; raises ProofError unless every guest comes up.

    For ``build --prove``, before anything is published. Writes ``proof.json`` and ``proof/`` to
    ``directory``, also when guests fail.
    """
    proof = spec_proof or Proof()
    wanted = Wanted.checked(modes=proof.modes)
    options = Options(wanted=wanted, under=under, timeout=timeout, keep=keep, proof=proof)
    report = prove(directory, events, options)
    require_up(report)
    return report


def require_up(report: ProofReport) -> None:
    """Raise ProofError naming the guests that did not come up."""
    failed = [boot for boot in report.boots if not boot.ok]
    if failed:
        first = failed[0]
        failure = first.failure
        raise ProofError(
            f"{len(failed)} of {len(report.boots)} boots failed; {first.ident}: "
            f"{failure.message if failure else 'not up'}",
            where=first.config,
            hint=failure.hint if failure else None,
        )


def _with_manifest(build: Path, options: Options) -> Options:
    """The spec's wishes travel in the manifest; what the user says now comes first."""
    value = manifest_of(build).get("proof")
    if options.proof != Proof() or not isinstance(value, dict):
        return options
    try:
        proof = Proof.model_validate(value)
    except ValueError:
        raise SpecError("proof is not what a spec allows", where=f"{build}/manifest.json") from None
    wanted = options.wanted
    if not wanted.modes and proof.modes:
        wanted = replace(wanted, modes=tuple(proof.modes))
    return replace(options, proof=proof, wanted=wanted)


def _rules(options: Options) -> Rules:
    proof = options.proof
    up = expectation(options.expect or proof.expect)
    return Rules(up, options.timeout, float(proof.timeout), proof.command)


def _under_xen(trials: Sequence[Trial], out: Path, events: Events, options: Options) -> ProofReport:
    rules = _rules(options)
    _check_netboot(trials, options)
    broken = {trial.ident: failure for trial in trials if (failure := _damage(trial))}
    sound = [trial for trial in trials if trial.ident not in broken]
    seconds: dict[str, float] = {}
    boots: dict[str, Boot] = {}
    about = {"accelerator": "tcg", **package_versions(("qemu-system-x86",))}
    if sound:
        shape, state_is_useful = _shape(sound)
        started = time.monotonic()
        made = build_lab(shape, events, state=state_is_useful, fresh=options.fresh)
        seconds["lab"] = round(time.monotonic() - started, 1)
        about |= {"HVM firmware": str(made.firmware), "lab check": str(made.check)}
        count = lanes_for(len(sound), shape.memory_mib, available_mib(), options.jobs)
        with workspace(events) as space:
            lab = _Lab(space, shape, made.files, made.state, options.netboot)
            boots = lab.prove(sound, out, events, rules, seconds, keep=options.keep, count=count)
    for trial in trials:
        if trial.ident in broken:
            boots[trial.ident] = _not_tried(trial, broken[trial.ident])
    ordered = tuple(boots[trial.ident] for trial in trials)
    return ProofReport("xen", ordered, seconds, about)


@dataclass
class _Lab:
    space: Workspace
    shape: Shape
    files: LabFiles
    state: Path | None
    netboot: Path | None = None
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def prove(
        self,
        trials: Sequence[Trial],
        out: Path,
        events: Events,
        rules: Rules,
        seconds: dict[str, float],
        *,
        keep: bool,
        count: int,
    ) -> dict[str, Boot]:
        """Start ``count`` labs, run the trials in them, and report each."""
        boots: dict[str, Boot] = {}
        out.mkdir(parents=True, exist_ok=True)
        # The longest first, so that no lane is left alone with it at the end.
        queue = Queue(sorted(enumerate(trials), key=lambda item: item[1].config.mode != "hvm"))

        def lane(queue: Queue[tuple[int, Trial]]) -> None:
            started = time.monotonic()
            with self._awake(queue, events, out if keep else None) as session:
                seconds.setdefault("lab start", round(time.monotonic() - started, 1))
                for number, trial in queue:
                    before = time.monotonic()
                    boots[trial.ident] = boot_of(session.run(trial, number, rules), out)
                    seconds[trial.ident] = round(time.monotonic() - before, 1)

        started = time.monotonic()
        run_lanes(queue, count, lane, self._stop)
        seconds["all guests"] = round(time.monotonic() - started, 1)
        return boots

    def _stop(self) -> None:
        for process in list(self._running):
            kill(process)

    @contextlib.contextmanager
    def _awake(
        self, queue: Queue[tuple[int, Trial]], events: Events, log_to: Path | None
    ) -> Iterator[Session]:
        """A lab whose agent answers: from the saved state, or started anew if that fails."""
        with contextlib.ExitStack() as stack:
            try:
                session = stack.enter_context(self._start(events, self.state, log_to))
            except ToolError as error:
                if self.state is None or queue.ended.is_set():
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
                    self.shape,
                    self.files,
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
                shutil.copyfile(log, log_to / ("lab.log" if number == 1 else f"lab-{number}.log"))

    @contextlib.contextmanager
    def _known(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Let :meth:`_stop` find the machine for the length of a block."""
        self._running.add(process)
        try:
            yield
        finally:
            self._running.discard(process)


def _shape(trials: Sequence[Trial]) -> tuple[Shape, bool]:
    """The machine that holds the largest guest, and whether the usual saved state fits it."""
    usual = Shape()
    needed = DOM0_MIB + max(trial.config.memory_mib for trial in trials) + RESERVE_MIB
    memory = max(usual.memory_mib, -(-needed // 512) * 512)
    free = available_mib()
    if memory > free:
        raise HostError(
            f"the proof needs {memory} MiB of memory and {free} MiB are free",
            hint="prove a guest with less memory, or on a larger host",
        )
    return replace(usual, memory_mib=memory), memory == usual.memory_mib


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


def _not_tried(trial: Trial, failure: Failure) -> Boot:
    config = trial.config
    return Boot(
        ident=trial.ident,
        name=config.name,
        mode=config.mode,
        boot=config.boot,
        format=trial.format,
        config=str(config.path),
        config_sha256=config.sha256,
        ok=False,
        dhcp={nic.mac: None for nic in config.nics if nic.mac},
        failure=failure,
    )
