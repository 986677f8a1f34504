"""What makes another lab, another saved state, or another self-check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oracles.labs import lab_tools

from imagekit.pipeline.plan import Plan
from imagekit.proof.checkprograms import Programs
from imagekit.proof.lab import lab_plan
from imagekit.proof.machine import Shape
from imagekit.proof.tools import LabTools
from imagekit.proof.xens import XENS


def planned(
    tools: LabTools | None = None, shape: Shape | None = None, *, state: bool = True
) -> Plan:
    return lab_plan(XENS["4.17"], shape or Shape(), tools or lab_tools(), state=state)


def same(name: str, one: Plan, other: Plan) -> bool:
    return one.maker(name).key == other.maker(name).key


def test_the_saved_state_depends_on_the_machine_and_the_disk_does_not() -> None:
    usual = planned()
    other = planned(shape=Shape(xen_args="spec-ctrl=no"))
    assert same("dom0.img", usual, other)
    assert not same("state", usual, other)
    assert not same("check.json", usual, other)


def test_another_firmware_makes_another_lab() -> None:
    one, other = planned(lab_tools(firmware="00")), planned(lab_tools(firmware="01"))
    assert same("rootfs.tar", one, other)
    for name in ("dom0.img", "state", "check.json"):
        assert not same(name, one, other)


def test_another_emulator_makes_another_state_and_another_check_of_the_same_dom0() -> None:
    one, other = planned(lab_tools(emulator="00")), planned(lab_tools(emulator="01"))
    assert same("dom0.img", one, other)
    for name in ("state", "check.json"):
        assert not same(name, one, other)


def test_the_check_is_made_once_for_machines_of_every_size() -> None:
    usual = planned()
    larger = planned(shape=Shape(memory_mib=4096), state=False)
    assert same("check.json", usual, larger)
    assert "state" in {target.artefact for target in usual.targets}
    assert "state" not in {target.artefact for target in larger.targets}


def test_other_programs_check_the_same_lab_again(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"y")
    usual = planned()
    other = planned(replace(lab_tools(), programs=Programs(Path(__file__), tmp_path / "disk")))
    assert same("state", usual, other)
    assert not same("check.json", usual, other)


def test_a_machine_that_cannot_be_saved_is_checked_from_its_start() -> None:
    plan = lab_plan(XENS["4.17"], Shape(), lab_tools(), state=False, saved=False)
    assert not [planned for planned in plan.stages if planned.stage.name == "lab-state"]
    assert plan.maker("check.json")
