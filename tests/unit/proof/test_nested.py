"""The lab runs by KVM only where nesting works, and falls back to emulation where Xen fails."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from oracles.labs import lab_tools

from imagekit.errors import LabError
from imagekit.host.kvm import KvmVerdict
from imagekit.pipeline.events import Event, Events
from imagekit.proof import lab, nested
from imagekit.proof.lab import best_lab, lab_plan
from imagekit.proof.machine import Shape
from imagekit.proof.xens import XENS

XEN = XENS["4.17"]


@pytest.mark.parametrize(
    ("module", "value", "works"),
    [
        ("kvm_amd", "1", True),
        ("kvm_intel", "Y", True),
        ("kvm_intel", "N", False),
        (None, "", False),
    ],
)
def test_nesting_is_read_from_the_module_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, value: str, works: bool
) -> None:
    monkeypatch.setattr(nested, "kvm_works", lambda: KvmVerdict(True, "ran"))
    if module:
        path = tmp_path / module / "parameters/nested"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    assert nested.nested_kvm(tmp_path).works is works


def test_kvm_that_runs_no_kernel_is_not_asked_for_nesting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "kvm_works", lambda: KvmVerdict(False, "hangs"))
    assert nested.nested_kvm() == KvmVerdict(False, "hangs")


def built(
    monkeypatch: pytest.MonkeyPatch, *, nesting: bool, kvm_is_right: bool
) -> tuple[list[str], list[str]]:
    """The accelerators that were tried, and the warnings."""
    tried: list[str] = []
    said: list[str] = []

    def build_lab(_xen: object, shape: Shape, _events: Events, **_options: Any) -> Any:
        tried.append(shape.accelerator)
        if shape.accelerator == "kvm" and not kvm_is_right:
            raise LabError("a PV guest did not come up")

    def note(event: Event) -> None:
        if event.kind == "warning":
            said.append(event.fields["text"])

    monkeypatch.setattr(lab, "build_lab", build_lab)
    monkeypatch.setattr(lab, "nested_kvm", lambda: KvmVerdict(nesting, "so"))
    best_lab(XEN, Shape(), Events([note]))
    return tried, said


def test_a_lab_that_kvm_runs_wrong_is_emulated_and_the_user_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried, said = built(monkeypatch, nesting=True, kvm_is_right=False)
    assert tried == ["kvm", "tcg"]
    assert said == ["KVM does not run the lab, emulation does: a PV guest did not come up"]


def test_kvm_is_used_where_it_is_right_and_not_tried_without_nesting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert built(monkeypatch, nesting=True, kvm_is_right=True) == (["kvm"], [])
    assert built(monkeypatch, nesting=False, kvm_is_right=True) == (["tcg"], [])


def test_each_accelerator_has_its_own_state_and_its_own_check() -> None:
    one, other = (
        lab_plan(XEN, Shape(accelerator=a), lab_tools(), state=True) for a in ("tcg", "kvm")
    )
    assert one.maker("dom0.img").key == other.maker("dom0.img").key
    for name in ("state", "check.json"):
        assert one.maker(name).key != other.maker(name).key


def test_kvm_counts_no_instructions_and_offers_the_hosts_processor() -> None:
    argv = Shape(accelerator="kvm").argv(Path("/disk"))
    pairs = list(itertools.pairwise(argv))
    assert ("-accel", "kvm") in pairs
    assert ("-cpu", "host") in pairs
    assert "-icount" not in argv
