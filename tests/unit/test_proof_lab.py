"""What makes another lab, another saved state, or another self-check."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.pipeline.plan import Plan
from imagekit.proof.firmware import Firmware
from imagekit.proof.lab import lab_plan
from imagekit.proof.machine import Shape
from imagekit.proof.selfcheck.programs import Programs


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    made = Programs(tmp_path / "registers", tmp_path / "disk")
    made.registers.write_bytes(b"x")
    made.disk.write_bytes(b"x")
    return made


def planned(
    programs: Programs, shape: Shape | None = None, sha256: str = "00", *, state: bool = True
) -> Plan:
    firmware = Firmware(Path("/nowhere"), "1", sha256)
    return lab_plan(shape or Shape(), firmware, programs, state=state)


def same(name: str, one: Plan, other: Plan) -> bool:
    return one.maker(name).key == other.maker(name).key


def test_the_saved_state_depends_on_the_machine_and_the_disk_does_not(programs: Programs) -> None:
    usual = planned(programs)
    other = planned(programs, Shape(xen_args="spec-ctrl=no"))
    assert same("dom0.img", usual, other)
    assert not same("state", usual, other)
    assert not same("check.json", usual, other)


def test_another_firmware_makes_another_lab(programs: Programs) -> None:
    one, other = planned(programs), planned(programs, sha256="01")
    assert same("rootfs.tar", one, other)
    for name in ("dom0.img", "state", "check.json"):
        assert not same(name, one, other)


def test_the_check_is_made_once_for_machines_of_every_size(programs: Programs) -> None:
    usual = planned(programs)
    larger = planned(programs, Shape(memory_mib=4096), state=False)
    assert same("check.json", usual, larger)
    assert "state" in {target.artefact for target in usual.targets}
    assert "state" not in {target.artefact for target in larger.targets}


def test_other_programs_check_the_same_lab_again(programs: Programs) -> None:
    usual = planned(programs)
    programs.registers.write_bytes(b"y")
    other = planned(programs)
    assert same("state", usual, other)
    assert not same("check.json", usual, other)


def test_a_machine_that_cannot_be_saved_is_checked_from_its_start(programs: Programs) -> None:
    firmware = Firmware(Path("/nowhere"), "1", "00")
    plan = lab_plan(Shape(), firmware, programs, state=False, saved=False)
    assert not [planned for planned in plan.stages if planned.stage.name == "lab-state"]
    assert plan.maker("check.json")
