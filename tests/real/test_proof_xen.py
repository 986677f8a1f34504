"""The demo image under a real Xen, as PV and PVH, from every format."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from oracles.builds import ROOT, Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


def test_a_build_is_published_when_the_configs_that_name_it_are_proven(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    out = tmp_path / "web01"
    spec = ROOT / "examples/web01.yaml"
    chosen = ("--set", "proof.modes=[pv]", "--set", "disk.formats=[raw]")
    imagekit("build", spec, "-o", out, *chosen, "--prove", timeout=1500)
    (found,) = report_of(out)["boots"]
    assert (found["mode"], found["boot"], found["format"]) == ("pv", "pygrub", "raw")
    assert_up(found, "PV")
    config = out / "web01.pv.xl.cfg"
    assert f"target={out}/web01.raw" in config.read_text()
    assert found["config"] == str(config)
    assert found["config_sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["web01"]
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("mode", "boot"),
    [("pv", "direct"), ("pvh", "direct"), pytest.param("pvh", "pygrub", marks=pytest.mark.long)],
)
def test_the_demo_image_boots_from_raw(demo: Build, imagekit: Run, mode: str, boot: str) -> None:
    imagekit("prove", demo.path, "--mode", mode, "--boot", boot, timeout=1500)
    report = report_of(demo.path)
    (found,) = report["boots"]
    assert (found["mode"], found["boot"], found["format"]) == (mode, boot, "raw")
    assert_up(found, mode.upper())


@pytest.mark.long
def test_the_demo_image_boots_by_pvgrub(demo: Build, imagekit: Run) -> None:
    wanted = ("--mode", "pv", "--mode", "pvh", "--boot", "pvgrub")
    imagekit("prove", demo.path, *wanted, timeout=1500)
    boots = report_of(demo.path)["boots"]
    assert [(boot["mode"], boot["boot"]) for boot in boots] == [("pv", "pvgrub"), ("pvh", "pvgrub")]
    for boot in boots:
        assert_up(boot, boot["mode"].upper())


def test_the_demo_image_boots_from_other_formats_side_by_side(demo: Build, imagekit: Run) -> None:
    formats = ("qcow2", "vhd")
    before = [demo.disk(name).stat() for name in formats]
    wanted = [word for name in formats for word in ("--format", name)]
    imagekit("prove", demo.path, "--mode", "pv", *wanted, "--jobs", "2", timeout=1500)
    boots = report_of(demo.path)["boots"]
    assert [(boot["boot"], boot["format"]) for boot in boots] == [
        ("pygrub", image_format) for image_format in formats
    ]
    for boot in boots:
        assert_up(boot, "PV")
    after = [demo.disk(name).stat() for name in formats]
    assert [(s.st_mtime_ns, s.st_size) for s in before] == [
        (s.st_mtime_ns, s.st_size) for s in after
    ]
