"""The demo image under a real Xen, as PV and PVH, from every format."""

from __future__ import annotations

import pytest
from oracles.builds import Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


@pytest.mark.parametrize(("mode", "boot"), [("pv", "pygrub"), ("pv", "direct"),
                                            ("pvh", "direct"), ("pvh", "pygrub")])  # fmt: skip
def test_the_demo_image_boots_from_raw(demo: Build, imagekit: Run, mode: str, boot: str) -> None:
    imagekit("prove", demo.path, "--mode", mode, "--boot", boot, timeout=1500)
    report = report_of(demo.path)
    (found,) = report["boots"]
    assert (found["mode"], found["boot"], found["format"]) == (mode, boot, "raw")
    assert_up(found, mode.upper())


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
