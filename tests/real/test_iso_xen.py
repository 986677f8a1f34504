"""The guest that a small installer made from its ISO, under a real Xen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.proofs import report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow, pytest.mark.long]


def test_the_installed_guest_boots_as_pv(tiny: Build, imagekit: Run) -> None:
    imagekit("prove", tiny.path, "--mode", "pv", timeout=1500)
    (boot,) = report_of(tiny.path)["boots"]
    assert boot["ok"], boot["failure"]
    assert (boot["mode"], boot["boot"], boot["format"]) == ("pv", "pygrub", "raw")
    assert (boot["guest_type"], boot["disks"]) == ("PV", ["xvda"])
    # The installer's name for the card is not Xen's.
    assert boot["nics"] == list(boot["dhcp"]) and all(boot["dhcp"].values())
    console = Path(boot["console"]).read_text(errors="replace")
    root = json.loads(tiny.one("facts").read_text())["cmdline"].split()[0]
    assert root.startswith("root=UUID=") and f"Command line: {root} " in console
    assert "tiny01 login:" in console


def test_the_installed_guest_boots_as_hvm_from_its_own_boot_loader(
    tiny: Build, imagekit: Run
) -> None:
    imagekit("prove", tiny.path, "--mode", "hvm", timeout=4000)
    (boot,) = report_of(tiny.path)["boots"]
    assert boot["ok"], boot["failure"]
    assert (boot["mode"], boot["boot"], boot["format"]) == ("hvm", "firmware", "raw")
    assert (boot["guest_type"], boot["disks"]) == ("HVM with PV drivers", ["xvda"])
