"""The lab's tools stay in the store as long as anybody has them."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imagekit.pipeline.events import Events
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.pipeline.store import Store
from imagekit.proof import tools
from imagekit.proof.emulator import ARCHIVE, VERSION
from imagekit.proof.unpack import LIBRARY

MADE = ("bios.bin", "version", ARCHIVE, VERSION, LIBRARY, "registers", "disk")


class Maker(Stage):
    """Makes small files under the names of the tools."""

    name: ClassVar[str] = "maker"
    title: ClassVar[str] = "making tools"
    makes = tuple(dict.fromkeys(MADE))

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, run: StageRun) -> None:
        for name in self.makes:
            (run.output / name).write_text(name)


def plan() -> Plan:
    return make_plan([Maker()], [Target(name, name, "lab") for name in Maker.makes], {})


def test_pruning_leaves_tools_that_somebody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(tools, "tools_plan", plan)
    found = tools.build_tools(Events())
    gc.collect()
    assert Store().prune(0).removed == 0
    assert found.programs.registers.read_text() == "registers"
    path = found.programs.registers
    del found
    gc.collect()
    assert Store().prune(0).removed == 1
    assert not path.exists()
