"""The demo image started by libvirtd's Xen driver, and XML that libvirt cannot start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


def test_the_demo_image_boots_by_libvirt(demo: Build, imagekit: Run) -> None:
    wanted = ("--mode", "pv", "--boot", "pygrub", "--toolstack", "libvirt")
    imagekit("prove", demo.path, *wanted, timeout=1500)
    (found,) = report_of(demo.path)["boots"]
    assert (found["mode"], found["boot"], found["toolstack"]) == ("pv", "pygrub", "libvirt")
    assert_up(found, "PV")
    kept = Path(found["console"]).parent
    defined = Path(found["config"]).read_text()
    running = (kept / "domain.xml").read_text()
    uuid = re.compile(r"<uuid>[-0-9a-f]{36}</uuid>")
    assert uuid.findall(defined) == uuid.findall(running) != []
    assert "<domain type='xen' id=" in running
    assert not (kept / "xl.log").exists()


def test_libvirts_own_words_are_in_the_report(demo: Build, imagekit: Run, tmp_path: Path) -> None:
    argv = ("config", demo.path, "--toolstack", "libvirt", "--mode", "pv")
    text = imagekit(*argv).stdout
    config = tmp_path / "web01.xml"
    seen = {}
    for name, old, new in (
        ("refused", "<on_reboot>restart", "<on_reboot>dance"),
        ("bridge", 'bridge="xenbr0"', 'bridge="xenbr9"'),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        words = ("--config", config, "--toolstack", "libvirt", "-o", tmp_path)
        assert imagekit("prove", *words, check=False, timeout=1500).returncode == 11
        (found,) = report_of(tmp_path)["boots"]
        seen[name] = found["failure"]
    assert seen["refused"]["cause"] == "not-defined"
    assert seen["bridge"]["cause"] == "bridge-missing"
    assert any("xenbr9" in line for line in seen["bridge"]["libvirt"])
