"""The stage that checks a lab: once, from the state in which every proof will find it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import LabError, ToolError
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.proof.boots import Trial
from imagekit.proof.console import tail
from imagekit.proof.machine import Shape, lab_files, machine
from imagekit.proof.selfcheck import verdict
from imagekit.proof.selfcheck.guests import check_trials
from imagekit.proof.selfcheck.verdict import SAID, LabCheck
from imagekit.proof.session import Rules, Seen, Session
from imagekit.proof.tools import LabTools

TIMEOUT = 120.0
"""Seconds of a processor's time for each guest; they take about ten."""


class CheckLab(Stage):
    """Runs the three guests of the self-check in a lab, and keeps that it passed."""

    name: ClassVar[str] = "lab-check"
    title: ClassVar[str] = "checking that the lab is right"
    makes = ("check.json",)

    def __init__(self, shape: Shape, tools: LabTools, *, state: bool) -> None:
        self._shape = shape
        self._emulator = tools.emulator
        self._programs = tools.programs
        self.needs = ("dom0.img", "xen", "vmlinuz", "initrd", *(("state",) if state else ()))

    def key(self) -> Mapping[str, Any]:
        return {
            "machine": vars(self._shape),
            "emulator": self._emulator.sha256,
            "programs": self._programs.digests(),
        }

    def run(self, run: StageRun) -> None:
        try:
            passed = self._check(run)
        except LabError as error:
            raise _explained(error, run.logs) from None
        except ToolError as error:
            if "saved" in error.what:  # then it is tried without a saved state
                raise
            said = " | ".join(tail(error.output, 3))
            what = f"{error.what}: {said}" if said else error.what
            raise _explained(LabError(what, where=error.where), run.logs) from error
        passed.write(run.output / "check.json")

    def _check(self, run: StageRun) -> LabCheck:
        """Run the guests one after the other; the first that is wrong ends it with LabError."""
        space = run.workspace
        files = lab_files(run.inputs, self._emulator)
        share, read_only, scratch = (space.temporary(n) for n in ("share", "files", "lab"))
        pv, pvh, hvm = check_trials(files.kernel, self._programs, space.temporary("selfcheck"))
        rules = Rules(SAID, TIMEOUT, attempts=1)
        state = run.inputs.get("state")
        options = {"share": share, "read_only": read_only, "scratch": scratch}
        with machine(self._shape, files, state=state, **options) as running:
            if state is None:
                running.wait_for("LAB-READY", 300)
            session = Session(running, share, read_only, scratch, space.events)
            session.begin()

            def seen(trial: Trial, number: int) -> Seen:
                found = session.run(trial, number, rules)
                _keep(found, run.logs)
                return found

            pv_rounds = verdict.registers(seen(pv, 1))
            pvh_rounds = verdict.registers(seen(pvh, 2))
            verdict.disk(seen(hvm, 3))
        return LabCheck(pv_rounds, pvh_rounds)


def _keep(seen: Seen, logs: Path) -> None:
    for name in ("console", "serial", "xl"):
        path = seen.directory / f"{name}.log"
        if path.is_file():
            shutil.copyfile(path, logs / f"{seen.trial.ident}-{name}.log")


def _explained(error: LabError, logs: Path) -> LabError:
    what = f"the lab does not work on this host: {error.what}"
    hint = f"{error.hint}; " if error.hint else ""
    return LabError(what, where=error.where, hint=f"{hint}the guests' consoles are in {logs}")
