"""The network of a clone, written as the guest's own software reads it."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.directory_guest import DirectoryGuest

from imagekit.errors import GuestError
from imagekit.guest.network import ifupdown
from imagekit.guest.network.keyfile import keyfile
from imagekit.guest.network.netplan import ethernets
from imagekit.guest.network.networkd import network_file, render
from imagekit.guest.network.setting import set_network
from imagekit.guest.network.state import NetworkState, Vif

WANTS = "/etc/systemd/system/multi-user.target.wants"
STATIC = Vif(
    "00:16:3e:00:00:01",
    ("192.0.2.5/24", "2001:db8::5/64"),
    ("192.0.2.1", "2001:db8::1"),
    ("192.0.2.53", "2001:db8::53"),
)
DHCP = Vif("00:16:3e:00:00:02")
WITH_DNS = Vif("00:16:3e:00:00:01", dns=("192.0.2.53",))
D_I = """\
# This file describes the network interfaces available on your system
source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug ens3
iface ens3 inet dhcp
# This is an autoconfigured IPv6 interface
iface ens3 inet6 auto
"""
CURTIN = """\
network:
  version: 2
  renderer: networkd
  ethernets:
    nic0:
      match: {macaddress: "00:16:3e:99:99:99"}
      dhcp4: true
"""


def guest(root: Path, **files: str) -> Any:
    return DirectoryGuest(root, **{"/usr/lib/systemd/systemd-udevd": "", **files})


def state(*vifs: Vif) -> NetworkState:
    return NetworkState(vifs)


def ini(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_networkd_gets_one_file_for_each_nic_and_loses_those_of_the_golden_image(
    tmp_path: Path,
) -> None:
    files = guest(tmp_path, **{f"{WANTS}/systemd-networkd.service": ""})
    old = ("vif0", "vif7", "vifplace0")
    for name in (*(f"10-imagekit-{part}.network" for part in old), "20-mine.network"):
        files.write(f"/etc/systemd/network/{name}", b"old")
    assert set_network(files, state(STATIC, DHCP)) == "networkd"
    names = files.names("/etc/systemd/network")
    assert names == ["10-imagekit-vif0.network", "10-imagekit-vif1.network", "20-mine.network"]
    lines = files.peek("/etc/systemd/network/10-imagekit-vif0.network").splitlines()
    assert [x for x in lines if x.startswith("Address=")] == [
        "Address=192.0.2.5/24",
        "Address=2001:db8::5/64",
    ]
    assert "MACAddress=00:16:3e:00:00:01" in lines
    assert "DHCP=yes" in files.peek("/etc/systemd/network/10-imagekit-vif1.network")
    assert files.peek("/etc/resolv.conf") == "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"


def test_network_manager_gets_profiles_that_go_before_its_own(tmp_path: Path) -> None:
    profiles = "/etc/NetworkManager/system-connections"
    files = guest(tmp_path, **{f"{WANTS}/NetworkManager.service": ""})
    files.write(f"{profiles}/ens3.nmconnection", b"[connection]\nid=ens3\n", mode=0o600)
    assert set_network(files, state(STATIC, DHCP)) == "NetworkManager"
    first, second = (ini(files.peek(f"{profiles}/imagekit-vif{n}.nmconnection")) for n in (0, 1))
    assert first["ethernet"] == {"mac-address": "00:16:3E:00:00:01"}
    assert first["ipv4"] == {
        "method": "manual",
        "address1": "192.0.2.5/24",
        "gateway": "192.0.2.1",
        "dns": "192.0.2.53;",
    }
    assert first["ipv6"]["address1"] == "2001:db8::5/64"
    assert int(first["connection"]["autoconnect-priority"]) > 0
    assert second["ipv4"] == second["ipv6"] == {"method": "auto"}
    for name in ("imagekit-vif0.nmconnection", "ens3.nmconnection"):
        assert files.place(f"{profiles}/{name}").stat().st_mode & 0o777 == 0o600
    assert not files.place("/etc/resolv.conf").exists()


def test_a_family_that_has_no_address_asks_for_none_by_dhcp() -> None:
    only6 = ini(keyfile(0, Vif("00:16:3e:00:00:01", ("2001:db8::5/64",))))
    assert (only6["ipv4"]["method"], only6["ipv6"]["method"]) == ("disabled", "manual")
    only4 = ini(keyfile(0, Vif("00:16:3e:00:00:01", ("192.0.2.5/24",))))
    assert (only4["ipv4"]["method"], only4["ipv6"]["method"]) == ("manual", "auto")


def test_netplans_ethernets_are_replaced_and_its_renderer_kept(tmp_path: Path) -> None:
    files = guest(tmp_path, **{"/etc/netplan/00-installer-config.yaml": CURTIN})
    files.write(f"{WANTS}/systemd-networkd.service", b"")
    assert set_network(files, state(STATIC, DHCP)) == "netplan"
    assert files.names("/etc/netplan") == ["50-imagekit.yaml"]
    network = json.loads(files.peek("/etc/netplan/50-imagekit.yaml"))["network"]
    assert (network["version"], network["renderer"]) == (2, "networkd")
    assert network["ethernets"]["vif0"] == {
        "match": {"macaddress": STATIC.mac},
        "addresses": list(STATIC.addresses),
        "routes": [{"to": "default", "via": via} for via in STATIC.gateways],
        "nameservers": {"addresses": list(STATIC.dns)},
    }
    assert network["ethernets"]["vif1"]["dhcp4"] is True
    assert files.place("/etc/netplan/50-imagekit.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "network:\n  version: 2\n  bridges: {br0: {interfaces: [ens3]}}\n",
        "network: [1, 2]\n",
        "- a\n",
        "a: [\n",
        "[" * 5000,
    ],
)
def test_a_netplan_that_is_more_than_ethernets_is_left_alone(tmp_path: Path, text: str) -> None:
    files = guest(tmp_path, **{"/etc/netplan/x.yaml": text})
    with pytest.raises(GuestError):
        set_network(files, state(STATIC))
    set_network(files, state(DHCP))
    assert files.names("/etc/netplan") == ["x.yaml"]
    assert files.peek("/etc/netplan/x.yaml") == text


def stanzas(text: str) -> list[str]:
    """The stanzas of interfaces(5) without comments, a line each."""
    found: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            found[-1] += " | " + line.strip()
        else:
            found.append(line)
    return found


def test_ifupdown_keeps_the_name_that_the_installer_wrote_down(tmp_path: Path) -> None:
    files = guest(tmp_path, **{"/etc/network/interfaces": D_I})
    files.write("/etc/network/interfaces.d/more", b"auto ens3\niface ens3:1 inet dhcp\n")
    assert set_network(files, state(STATIC, DHCP)) == "ifupdown"
    assert stanzas(files.peek("/etc/network/interfaces")) == [
        "source /etc/network/interfaces.d/*",
        "auto lo",
        "iface lo inet loopback",
        "allow-hotplug ens3",
        "iface ens3 inet static | address 192.0.2.5/24 | gateway 192.0.2.1",
        "iface ens3 inet6 static | address 2001:db8::5/64 | gateway 2001:db8::1",
        "allow-hotplug eth0",
        "iface eth0 inet dhcp",
    ]
    assert stanzas(files.peek("/etc/network/interfaces.d/more")) == ["iface ens3:1 inet dhcp"]
    links = {
        n: files.peek(f"/etc/systemd/network/{n}") for n in files.names("/etc/systemd/network")
    }
    places = {n: re.findall(r"(?m)^(?:Path|Name)=(.*)$", text) for n, text in links.items()}
    assert places == {
        "10-imagekit-ens3.link": ["xen-vif-0", "ens3"],
        "10-imagekit-eth0.link": ["xen-vif-1", "eth0"],
    }
    # A clone of the clone: the names stay.
    set_network(files, state(DHCP, DHCP))
    again = stanzas(files.peek("/etc/network/interfaces"))
    assert again[3:] == ["allow-hotplug ens3", "iface ens3 inet dhcp", *again[5:]]
    assert again[5:] == ["allow-hotplug eth0", "iface eth0 inet dhcp"]
    assert files.names("/etc/systemd/network") == sorted(links)


NAMES = st.sampled_from(["lo", "ens3", "ens4", "br0", "eth0"])
STANZAS = st.lists(
    st.one_of(
        st.builds(lambda n, m: f"auto {n} {m}", NAMES, NAMES),
        st.builds(lambda n: f"allow-hotplug {n}", NAMES),
        st.builds(lambda n: f"iface {n} inet static\n    address 192.0.2.9/24\n\tmtu 9000", NAMES),
        st.builds(lambda n: f"iface {n} inet6 auto", NAMES),
        st.just("source-directory interfaces.d"),
        st.just("mapping eth*\n    script x\n    map y"),
    )
)


@given(STANZAS)
def test_stanzas_of_other_interfaces_are_left_as_they_are(rows: list[str]) -> None:
    text = "\n".join(rows) + "\n"
    made = stanzas(ifupdown.render(state(DHCP), ["ens3"], text))
    assert made[-2:] == ["allow-hotplug ens3", "iface ens3 inet dhcp"]
    expected = []
    for stanza in stanzas(text):
        words = stanza.split(" | ")[0].split()
        if words[0] in ("auto", "allow-hotplug"):
            others = [word for word in words[1:] if word != "ens3"]
            expected += [" ".join([words[0], *others])] if others else []
        elif words[:2] != ["iface", "ens3"]:
            expected.append(stanza)
    assert made[:-2] == expected
    once = ifupdown.without_stanzas(text, ["ens3"])
    assert ifupdown.without_stanzas(once, ["ens3"]) == once


def test_what_only_unicode_takes_for_the_end_of_a_line_is_none() -> None:
    text = "# a\x0bauto ens3\u2028iface ens3\nauto lo\n"
    assert ifupdown.without_stanzas(text, ["ens3"]) == text


def test_a_name_server_alone_goes_beside_dhcp(tmp_path: Path) -> None:
    lines = network_file(WITH_DNS).splitlines()
    assert "DHCP=yes" in lines and "DNS=192.0.2.53" in lines
    assert ini(keyfile(0, WITH_DNS))["ipv4"] == {"method": "auto", "dns": "192.0.2.53;"}
    files = guest(tmp_path, **{"/etc/netplan/x.yaml": CURTIN})
    set_network(files, state(WITH_DNS))
    network = json.loads(files.peek("/etc/netplan/50-imagekit.yaml"))["network"]
    entry = network["ethernets"]["vif0"]
    assert (entry["dhcp4"], entry["nameservers"]) == (True, {"addresses": ["192.0.2.53"]})


ROUTED = Vif(
    "00:16:3e:00:00:01",
    ("192.0.2.5/32", "2001:db8::5/128"),
    ("198.51.100.1", "2001:db8:1::1"),
)


def test_a_gateway_outside_the_network_is_on_the_link_in_every_stacks_words(
    tmp_path: Path,
) -> None:
    lines = network_file(ROUTED).splitlines()
    routes = ["", "[Route]", "Gateway=198.51.100.1", "GatewayOnLink=yes"]
    assert lines[-8:] == [*routes, "", "[Route]", "Gateway=2001:db8:1::1", "GatewayOnLink=yes"]
    assert sum(line.startswith("Gateway=") for line in lines) == 2
    profile = ini(keyfile(0, ROUTED))
    assert "gateway" not in profile["ipv4"]
    assert profile["ipv4"]["route1"] == "0.0.0.0/0,198.51.100.1"
    assert profile["ipv6"]["route1"] == "::/0,2001:db8:1::1"
    assert profile["ipv4"]["route1_options"] == profile["ipv6"]["route1_options"] == "onlink=true"
    assert ethernets(state(ROUTED))["vif0"]["routes"] == [
        {"to": "default", "via": "198.51.100.1", "on-link": True},
        {"to": "default", "via": "2001:db8:1::1", "on-link": True},
    ]
    assert stanzas(ifupdown.render(state(ROUTED), ["eth0"], "")) == [
        "allow-hotplug eth0",
        "iface eth0 inet static | address 192.0.2.5/32"
        " | post-up ip route add 198.51.100.1 dev $IFACE"
        " | post-up ip route add default via 198.51.100.1 dev $IFACE",
        "iface eth0 inet6 static | address 2001:db8::5/128"
        " | post-up ip -6 route add 2001:db8:1::1 dev $IFACE"
        " | post-up ip -6 route add default via 2001:db8:1::1 dev $IFACE",
    ]


def test_a_gateway_of_the_link_itself_needs_no_such_words() -> None:
    vif = Vif("00:16:3e:00:00:01", ("2001:db8::5/64",), ("fe80::1",))
    assert not vif.off_link("fe80::1") and vif.off_link("2001:db8:1::1")
    assert not STATIC.off_link("192.0.2.1") and not STATIC.off_link("2001:db8::1")
    assert "onlink" not in network_file(vif).lower()


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    files = guest(tmp_path)
    (tmp_path / "etc/systemd/network").mkdir(parents=True)
    assert set_network(files, state(STATIC)) is None
    assert files.names("/etc/systemd/network") == []


def test_a_nic_that_is_not_used_gets_no_address_from_any_renderer() -> None:
    unused = Vif("00:16:3e:00:00:03", unused=True)
    assert ini(render(state(unused))[0].text)["Network"] == {"linklocaladdressing": "no"}
    profile = ini(keyfile(0, unused))
    assert profile["ipv4"] == profile["ipv6"] == {"method": "disabled"}
    entry = ethernets(state(unused))["vif0"]
    assert entry == {"match": {"macaddress": unused.mac}, "link-local": []}
    assert stanzas(ifupdown.render(state(unused), ["eth0"], "")) == ["iface eth0 inet manual"]
