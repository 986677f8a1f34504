"""Proves that guests boot: under a real Xen in an emulated machine, or as plain machines."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.errors import HostError, ImageError, SpecError, ToolError
from imagekit.host.strangers import make_folder, require_kept_file, require_private_path
from imagekit.pipeline.build_directory import require_own_build
from imagekit.pipeline.events import Events
from imagekit.pipeline.lanes import available_mib, lanes_for
from imagekit.pipeline.workspace import workspace
from imagekit.proof import plain
from imagekit.proof.boots import (
    Trial,
    Wanted,
    check_trial,
    trial_of_config,
    trials_of_build,
    under_each,
)
from imagekit.proof.bootserver import check_tree, program_path
from imagekit.proof.console import expectation
from imagekit.proof.lab import best_lab
from imagekit.proof.lablanes import LabLanes, StartableLab, not_tried
from imagekit.proof.machine import DOM0_MIB, Shape
from imagekit.proof.outcome import require_up
from imagekit.proof.report import Boot, Failure, ProofReport
from imagekit.proof.session import Rules
from imagekit.proof.versions import LabVersions
from imagekit.proof.xens import LabXen, named
from imagekit.spec.manifest import read_manifest
from imagekit.spec.model import Proof

DIRECTORY = "proof"
RESERVE_MIB = 320
"""Beside dom0 and guest: Xen itself and what an HVM guest's device model maps."""


@dataclass(frozen=True)
class ProofOptions:
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


DEFAULTS = ProofOptions()


def prove(build: Path, events: Events, options: ProofOptions = DEFAULTS) -> ProofReport:
    """Prove the build in ``build`` and write ``proof.json`` and ``proof/`` there.

    Raises SpecError or CapabilityError for what cannot be proven, HostError, ToolError. Whether
    the guests came up is in the report.
    """
    require_own_build(build)
    options = _with_manifest(build, options)
    if options.under == "qemu":
        out = build / DIRECTORY
        report = plain.prove_build(build, out, events, _rules(options), options.wanted.formats)
    else:
        trials = trials_of_build(build, options.wanted, build / DIRECTORY)
        report = _under_xen(trials, build / DIRECTORY, events, options)
    return _written(report, build, options)


def prove_image(
    config: Path, image: Path | None, out: Path, events: Events, options: ProofOptions = DEFAULTS
) -> ProofReport:
    """Prove somebody else's config and image; the report goes to the directory ``out``.

    Raises as :func:`prove`, and HostError for files that strangers could change meanwhile.
    """
    toolstack, *more = options.wanted.toolstacks or ("xl",)
    if more:
        raise SpecError("one config is for one toolstack", where="--toolstack")
    trials = trial_of_config(config, image, toolstack)
    for trial in trials:
        for file in trial.host_files():
            require_kept_file(file, "prove a copy of it in a directory of your own")
    os.close(make_folder(out))
    require_private_path(out, "choose a directory with -o where nobody else may write")
    if options.under == "qemu":
        report = plain.prove_trials(trials, out / DIRECTORY, events, _rules(options))
    else:
        report = _under_xen(trials, out / DIRECTORY, events, options)
    return _written(report, out, options)


def _written(report: ProofReport, directory: Path, options: ProofOptions) -> ProofReport:
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
    options = ProofOptions(wanted=wanted, under=under, timeout=timeout, keep=keep, proof=proof)
    report = prove(directory, events, options)
    require_up(report)
    return report


def _with_manifest(build: Path, options: ProofOptions) -> ProofOptions:
    """The spec's wishes travel in the manifest; what the user says now comes first."""
    proof = read_manifest(build).proof
    if options.proof != Proof() or proof is None:
        return options
    wanted = options.wanted
    if not wanted.modes and proof.modes:
        wanted = replace(wanted, modes=tuple(proof.modes))
    wanted = replace(wanted, toolstacks=wanted.toolstacks or tuple(proof.toolstacks))
    return replace(options, proof=proof, wanted=wanted)


def _rules(options: ProofOptions) -> Rules:
    proof = options.proof
    up = expectation(options.expect or proof.expect)
    return Rules(up, options.timeout, float(proof.timeout), proof.command)


def _under_xen(
    trials: Sequence[Trial], out: Path, events: Events, options: ProofOptions
) -> ProofReport:
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
            labs: dict[str, StartableLab] = {}
            needed = _needed(sound, xens)
            for name, xen in needed.items():
                suffix = f"-{name}" if len(needed) > 1 else ""
                shape = xen.shape(memory)
                started = time.monotonic()
                made = best_lab(xen, shape, events, state=state_is_useful, fresh=options.fresh)
                ran_on.append(made.versions)
                seconds[f"lab{suffix}"] = round(time.monotonic() - started, 1)
                labs[name] = StartableLab(space, made, options.netboot, suffix)
            lanes = LabLanes(labs, out, events, rules, seconds, keep=options.keep)
            boots = lanes.prove(sound, count)
    for trial in trials:
        if trial.ident in broken:
            boots[trial.ident] = not_tried(trial, broken[trial.ident])
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


def _check_netboot(trials: Sequence[Trial], options: ProofOptions) -> None:
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
