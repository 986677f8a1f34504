"""The lab's dom0 as it waits for its first guest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.pipeline.stage import Stage, StageRun
from imagekit.proof.emulator import EmulatorArchive
from imagekit.proof.machine import Shape, lab_files, machine


class LabState(Stage):
    """dom0 started once and saved where it waits for its first guest."""

    name: ClassVar[str] = "lab-state"
    title: ClassVar[str] = "starting the dom0 that proves guests, to save it"
    needs = ("dom0.img", "xen", "vmlinuz", "initrd")
    makes = ("state",)

    def __init__(self, shape: Shape, emulator: EmulatorArchive) -> None:
        self._shape = shape
        self._emulator = emulator

    def key(self) -> Mapping[str, Any]:
        return {
            "machine": vars(self._shape),
            "emulator": self._emulator.sha256,
        }

    def run(self, run: StageRun) -> None:
        share = run.workspace.temporary("share")
        read_only = run.workspace.temporary("files")
        scratch = run.workspace.temporary("lab")
        files = lab_files(run.inputs, self._emulator)
        options = {"share": share, "read_only": read_only, "scratch": scratch}
        with machine(self._shape, files, **options) as running:
            running.wait_for("LAB-READY", 180)
            running.save(run.output / "state")
