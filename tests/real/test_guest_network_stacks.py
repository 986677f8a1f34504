"""A routed guest's network, whose gateway is outside its own, before what configures it."""

from __future__ import annotations

import configparser
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from oracles import unpacked
from oracles.directory_guest import DirectoryGuest
from oracles.networkd import PROGRAM, Card, configured

from imagekit.guest.network import ifupdown
from imagekit.guest.network.keyfile import keyfile
from imagekit.guest.network.networkd import network_file
from imagekit.guest.network.setting import set_network
from imagekit.guest.network.state import NetworkState, Vif

pytestmark = pytest.mark.real
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, for network namespaces")
networkd = pytest.mark.skipif(
    not PROGRAM.exists(), reason="missing: systemd-networkd (package systemd)"
)

MAC = "00:16:3e:00:00:01"
ROUTED = Vif(MAC, ("192.0.2.5/32", "2001:db8::5/128"), ("198.51.100.1", "2001:db8:1::1"))
MIXED = Vif(MAC, ("192.0.2.5/24", "2001:db8::5/128"), ("192.0.2.1", "2001:db8:1::1"))


def state(*vifs: Vif) -> NetworkState:
    return NetworkState(vifs)


@as_root
@networkd
@pytest.mark.parametrize("vif", [ROUTED, MIXED])
def test_networkd_makes_both_default_routes(vif: Vif, tmp_path: Path) -> None:
    files = {"10-imagekit-vif0.network": network_file(vif)}
    found = configured(files, [Card("eth0", MAC, "xen-vif-0")], tmp_path, "default via 2001")
    for gateway in vif.gateways:
        assert ("default", gateway, "eth0") in found.routes, found.log
    assert found.addresses["eth0"] >= set(vif.addresses)


@as_root
@networkd
def test_netplan_words_it_for_networkd(tmp_path: Path) -> None:
    place = tmp_path / "packages"
    place.mkdir()
    root = unpacked.packages(place, "netplan.io", "libnetplan0")
    guest = DirectoryGuest(
        tmp_path / "guest", **{"/etc/netplan/01.yaml": "network: {version: 2}\n"}
    )
    files: Any = guest
    assert set_network(files, state(ROUTED)) == "netplan"
    done = subprocess.run(
        [root / "usr/libexec/netplan/generate", "--root-dir", tmp_path / "guest"],
        env=unpacked.environment(root),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    made = tmp_path / "guest/run/systemd/network/10-netplan-vif0.network"
    # A virtual Ethernet pair has no permanent address, which a VIF has.
    text = made.read_text().replace("PermanentMACAddress", "MACAddress")
    (tmp_path / "run").mkdir()
    cards = [Card("eth0", MAC, "xen-vif-0")]
    found = configured({made.name: text}, cards, tmp_path / "run", "default via 2001")
    for gateway in ROUTED.gateways:
        assert ("default", gateway, "eth0") in found.routes, found.log


def test_network_manager_reads_the_routes(tmp_path: Path) -> None:
    root = unpacked.packages(tmp_path, "network-manager", "libnm0")
    done = subprocess.run(
        [root / "usr/bin/nmcli", "--offline", "connection", "modify", "connection.zone", "x"],
        input=keyfile(0, ROUTED),
        env=unpacked.environment(root),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    # What it does not understand is not in what it prints.
    profile = configparser.ConfigParser(strict=True, interpolation=None)
    profile.read_string(done.stdout)
    assert profile["ipv4"]["route1"] == "0.0.0.0/0,198.51.100.1"
    assert profile["ipv6"]["route1"] == "::/0,2001:db8:1::1"
    for section in ("ipv4", "ipv6"):
        assert profile[section]["route1_options"] == "onlink=true"
        assert profile[section]["method"] == "manual"


_IFUP = """
mount -t tmpfs tmpfs /run
mkdir /run/network
ip link add eth0 type veth peer name p0
ip link set p0 up
"$1" -i "$2" --no-scripts eth0
ip route
ip -6 route
"""


@as_root
@pytest.mark.parametrize("vif", [ROUTED, MIXED])
def test_ifup_makes_both_default_routes(vif: Vif, tmp_path: Path) -> None:
    root = unpacked.packages(tmp_path, "ifupdown")
    (tmp_path / "interfaces").write_text(ifupdown.render(state(vif), ["eth0"], ""))
    words: list[str | Path] = [
        "sh",
        "-ec",
        _IFUP,
        "sh",
        root / "sbin/ifup",
        tmp_path / "interfaces",
    ]
    done = subprocess.run(
        ["unshare", "-n", "-m", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for gateway in vif.gateways:
        assert f"default via {gateway} dev eth0" in done.stdout
