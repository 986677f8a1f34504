"""The demo image under the Xen of Debian 11 and that of Debian 13."""

from __future__ import annotations

import pytest
from oracles.builds import Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow, pytest.mark.long]


def test_the_demo_image_boots_under_older_and_newer_xens(demo: Build, imagekit: Run) -> None:
    xens = ("--xen", "4.14", "--xen", "4.20")
    done = imagekit("prove", demo.path, "--mode", "pv", *xens, timeout=3000)
    boots = report_of(demo.path)["boots"]
    assert [(boot["xen"], boot["boot"], boot["format"]) for boot in boots] == [
        ("4.14", "pygrub", "raw"),
        ("4.20", "pygrub", "raw"),
    ]
    for boot in boots:
        assert_up(boot, "PV")
        # The hypervisor's own version is in the guest's kernel log.
        console = (demo.path / "proof" / boot["ident"] / "console.log").read_text(errors="replace")
        assert f"Xen version: {boot['xen']}." in console
    assert done.stdout.splitlines()[0].split()[4:] == ["Xen", "4.14", "Xen", "4.20"]
