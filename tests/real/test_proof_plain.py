"""Guests in plain QEMU, as BIOS and as UEFI machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oracles import broken_guests
from oracles.builds import Build, Run

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_the_demo_image_boots_with_bios_and_uefi(demo: Build, imagekit: Run) -> None:
    before = demo.disk("raw").stat().st_mtime_ns
    imagekit("prove", demo.path, "--under", "qemu", timeout=1800)
    report = json.loads((demo.path / "proof.json").read_text())
    assert report["under"] == "qemu"
    assert [boot["mode"] for boot in report["boots"]] == ["bios", "uefi"]
    for boot in report["boots"]:
        assert boot["ok"], boot["failure"]
        assert boot["disks"] == ["vda"]
        assert boot["guest_type"] == "no Xen guest"
        assert "web01 login:" in Path(boot["console"]).read_text(errors="replace")
    assert demo.disk("raw").stat().st_mtime_ns == before


def test_a_truncated_image_is_named_before_anything_starts(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    config = broken_guests.truncated_qcow2(demo, tmp_path)
    arguments = ["--under", "qemu", "--config", config, "-o", tmp_path]
    done = imagekit("prove", *arguments, check=False, timeout=300)
    assert done.returncode == 11
    (boot,) = json.loads((tmp_path / "proof.json").read_text())["boots"]
    assert boot["failure"]["cause"] == "image-damaged"
