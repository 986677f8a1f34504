"""A clone of a guest that ifupdown configures, as Debian's installer leaves it, with an address."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.proofs import report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.long]
# The login prompt says which address the interface has (agetty(8), \4).
SPEC = r"""
name: golden01
memory: 512
os: {suite: bookworm}
install: {method: debootstrap, packages: [ifupdown]}
scripts: [./as-installed]
files:
- {target: /etc/network/interfaces, content: "auto lo\niface lo inet loopback\n
    allow-hotplug ens3\niface ens3 inet dhcp\n"}
- {target: /etc/issue, content: "address \\4{ens3} of \\n\n"}
"""
SCRIPT = "#!/bin/sh\nset -e\nsystemctl disable systemd-networkd.service systemd-resolved.service\n"


def test_its_address_is_set_and_its_interface_found_under_xen(
    build: Callable[..., Build], imagekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    (tmp_path / "golden01.yaml").write_text(SPEC)
    (tmp_path / "as-installed").write_text(SCRIPT)
    (tmp_path / "as-installed").chmod(0o755)
    golden = build(tmp_path / "golden01.yaml")
    where = ("--dir", tmp_path / "d", "--copy", "--mode", "pv")
    address = ("--ip", "198.18.0.77/24", "--gateway", "198.18.0.1")
    imagekit("provision", "clone01", "--from", golden.path, *where, *address)
    config = tmp_path / "d/clone01/clone01.cfg"
    expected = ("--expect", r"address 198\.18\.0\.77 of clone01")
    imagekit("prove", "--config", config, "-o", tmp_path, *expected, timeout=1500)
    (found,) = report_of(tmp_path)["boots"]
    assert found["ok"], json.dumps(found["failure"])
    imagekit("destroy", "clone01", "--yes")
