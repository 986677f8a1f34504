"""The demo image under a real Xen as HVM, which takes long in emulation."""

from __future__ import annotations

import pytest
from oracles.builds import Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


def test_the_demo_image_boots_as_hvm_from_its_own_boot_loader(demo: Build, imagekit: Run) -> None:
    imagekit("prove", demo.path, "--mode", "hvm", timeout=3600)
    (found,) = report_of(demo.path)["boots"]
    assert found["boot"] == "firmware"
    assert_up(found, "HVM with PV drivers")
