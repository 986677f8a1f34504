"""The files of systemd.network(5) that builds and clones get, obeyed by the real networkd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from oracles.networkd import PROGRAM, Card, configured

from imagekit.guest.network.networkd import render
from imagekit.installs.stages.overlay import network_state
from imagekit.spec.model import Spec

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PROGRAM.exists(), reason="missing: systemd-networkd (package systemd)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces of the host need root"),
]

OURS = "00:16:3e:00:00:01"
STATIC = {
    "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
    "gateways": ["192.0.2.1", "2001:db8::1"],
    "dns": ["192.0.2.53"],
    "search": ["example.org"],
}


def built(*nics: dict[str, Any]) -> dict[str, str]:
    """The files of /etc/systemd/network in a tree built for those NICs."""
    spec = Spec.model_validate(
        {
            "name": "web1",
            "os": {"distribution": "debian", "suite": "bookworm"},
            "install": {"method": "debootstrap"},
            "nics": list(nics),
        }
    )
    return {Path(file.path).name: file.text for file in render(network_state(spec))}


@pytest.mark.parametrize("mac", [OURS, "02:00:c0:00:02:05"])
def test_a_static_guest_has_its_network_whatever_mac_the_platform_gives(
    mac: str, tmp_path: Path
) -> None:
    files = built({"mac": OURS, "network": STATIC})
    result = configured(files, [Card("eth0", mac, "xen-vif-0")], tmp_path, "default via 2001")
    assert result.addresses["eth0"] >= {"192.0.2.5/24", "2001:db8::5/64"}, result.log
    assert ("default", "192.0.2.1", "eth0") in result.routes
    assert ("default", "2001:db8::1", "eth0") in result.routes
    assert "Unknown" not in result.log and "gnoring:" not in result.log.replace("state file", "")


def test_cards_are_known_by_their_mac_before_their_place(tmp_path: Path) -> None:
    second = {"addresses": ["198.51.100.5/24"], "gateways": ["198.51.100.1"]}
    files = built({"mac": OURS, "network": STATIC}, {"mac": "00:16:3e:00:00:02", "network": second})
    cards = [
        Card("eth0", "00:16:3e:00:00:02", "xen-vif-0"),
        Card("eth1", OURS, "xen-vif-1"),
        Card("eth2", "00:16:3e:00:00:03", "xen-vif-2"),
    ]
    result = configured(files, cards, tmp_path, "192.0.2.1")
    assert result.addresses["eth0"] == {"198.51.100.5/24"}
    assert "192.0.2.5/24" in result.addresses["eth1"]
    assert result.addresses["eth2"] == set()


def test_a_routed_guest_reaches_a_gateway_outside_its_network(tmp_path: Path) -> None:
    routed = {
        "addresses": ["203.0.113.7/32", "2001:db8:7::7/128"],
        "gateways": ["192.0.2.1", "2001:db8::1"],
    }
    files = built({"mac": OURS, "network": routed})
    result = configured(files, [Card("eth0", OURS, "xen-vif-0")], tmp_path, "default via 2001")
    assert result.addresses["eth0"] >= {"203.0.113.7/32", "2001:db8:7::7/128"}, result.log
    assert ("default", "192.0.2.1", "eth0") in result.routes
    assert ("default", "2001:db8::1", "eth0") in result.routes
