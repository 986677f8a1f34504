"""The gate between tree and image: kernel and initrd must be able to do what the spec asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.errors import CapabilityError
from imagekit.installs.context import BuildContext
from imagekit.kernel.capability import require_mode
from imagekit.kernel.reading import examine
from imagekit.kernel.report import write_report
from imagekit.pipeline.stage import Stage, StageRun


class KernelCheck(Stage):
    """Reads kernel and initrd and refuses modes they cannot boot in, with the evidence."""

    name: ClassVar[str] = "kernel"
    title: ClassVar[str] = "reading what the kernel can boot as"
    needs = ("kernel", "initrd", "kernel.config", "release")
    makes = ("kernel.json",)

    def __init__(self, context: BuildContext) -> None:
        self._file = context.file
        self._modes = context.spec.boot.modes

    def key(self) -> Mapping[str, Any]:
        return {"modes": sorted(self._modes)}

    def run(self, run: StageRun) -> None:
        config = run.inputs["kernel.config"]
        report = examine(
            run.inputs["kernel"],
            initrd=run.inputs["initrd"],
            config=config if config.stat().st_size else None,
        )
        for mode in self._modes:
            try:
                require_mode(report, mode)
            except CapabilityError as error:
                error.where = self._file.where("boot", "modes")
                raise
        write_report(report, run.output / "kernel.json", run.inputs["release"].read_text())
