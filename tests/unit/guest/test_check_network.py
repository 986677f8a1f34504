"""Networks configured by an interface's name: found, and the name given to a VIF."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from oracles.directory_guest import DirectoryGuest

from imagekit.guest.checks import FIXES, network
from imagekit.guest.findings import Finding

KEYFILE = "[connection]\nid=a\ntype=ethernet\ninterface-name=ens3\n"
NETPLAN = "network:\n  ethernets:\n    ens3:\n      dhcp4: true\n"


def subject(root: Path, args: str = "ro", **files: str) -> Any:
    """A guest with systemd's udev, files by their paths with __ for a slash."""
    guest = DirectoryGuest(root)
    guest.write("/usr/lib/systemd/systemd-udevd", b"")
    for name, text in files.items():
        guest.write("/" + name.replace("__", "/"), text.encode())
    inspection = SimpleNamespace(
        default_entry=SimpleNamespace(args=args), grub_default=None, kernels=()
    )
    return SimpleNamespace(files=guest, inspection=inspection)


def found(guest: Any) -> list[Finding]:
    return [finding for finding in network.find(guest) if finding.code == "nic-name"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/network/interfaces", "auto lo\nallow-hotplug ens3\niface ens3 inet dhcp\n"),
        ("etc/network/interfaces.d/lan", "iface ens3 inet dhcp\n"),
        ("etc/netplan/00-installer-config.yaml", NETPLAN),
        ("etc/systemd/network/10-lan.network", "[Match]\nName=ens3\n\n[Network]\nDHCP=yes\n"),
        ("etc/NetworkManager/system-connections/a.nmconnection", KEYFILE),
        ("etc/sysconfig/network-scripts/ifcfg-ens3", "DEVICE=ens3\nBOOTPROTO=dhcp\n"),
    ],
)
def test_the_first_vif_gets_the_name_that_the_installer_wrote_down(
    tmp_path: Path, path: str, text: str
) -> None:
    guest = subject(tmp_path, **{path.replace("/", "__"): text})
    (finding,) = found(guest)
    assert (finding.what, finding.fixable) == (f"/{path} configures ens3", True)
    FIXES["nic-name"](guest)
    assert found(guest) == []
    (link,) = (tmp_path / "etc/systemd/network").glob("*.link")
    rows = [line for line in link.read_text().splitlines() if not line.startswith("#")]
    assert rows == ["[Match]", "Path=xen-vif-0", "", "[Link]", "Name=ens3"]


def test_several_names_go_to_the_vifs_in_the_order_of_their_cards(tmp_path: Path) -> None:
    text = "auto ens10\niface ens10 inet dhcp\nauto ens4\niface ens4 inet static\n"
    guest = subject(tmp_path, etc__network__interfaces=text)
    assert len(found(guest)) == 2
    FIXES["nic-name"](guest)
    texts = {p.name: p.read_text() for p in (tmp_path / "etc/systemd/network").glob("*.link")}
    places = {n: re.findall(r"Path=xen-vif-(\d+)\n", text) for n, text in texts.items()}
    assert places == {"10-imagekit-ens4.link": ["0"], "10-imagekit-ens10.link": ["1"]}


def test_names_that_a_vif_has_for_sure_are_left_alone(tmp_path: Path) -> None:
    text = "auto eth0\niface eth0 inet dhcp\n"
    assert found(subject(tmp_path / "a", "ro net.ifnames=0", etc__network__interfaces=text)) == []
    link = "[Match]\nMACAddress=00:16:3e:00:00:01\n[Link]\nName=eth0\n"
    guest = subject(tmp_path / "b", etc__network__interfaces=text)
    guest.files.write("/etc/systemd/network/10-mine.link", link.encode())
    assert found(guest) == []
    mac = NETPLAN + "      match: {macaddress: x}\n"
    guest = subject(tmp_path / "c")
    guest.files.write("/etc/netplan/a.yaml", mac.encode())
    assert found(guest) == []


def test_without_systemds_udev_nothing_is_promised(tmp_path: Path) -> None:
    guest = subject(tmp_path, etc__network__interfaces="iface ens3 inet dhcp\n")
    guest.files.place("/usr/lib/systemd/systemd-udevd").unlink()
    (finding,) = found(guest)
    assert not finding.fixable
