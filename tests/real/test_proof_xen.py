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


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_the_demo_image_boots_from_other_formats(
    demo: Build, imagekit: Run, image_format: str
) -> None:
    before = demo.disk(image_format).stat()
    imagekit("prove", demo.path, "--mode", "pv", "--format", image_format, timeout=1500)
    (found,) = report_of(demo.path)["boots"]
    assert (found["boot"], found["format"]) == ("pygrub", image_format)
    assert_up(found, "PV")
    after = demo.disk(image_format).stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
