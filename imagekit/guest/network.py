"""The addresses of a guest's NICs, in the words of whatever configures its network.

A NIC is known by its MAC address; where only interface names are known (ifupdown), its VIF gets
one. Sources: systemd.link(5), nm-settings-keyfile(5), the netplan reference,
interfaces(5).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagekit.errors import GuestError
from imagekit.guest.files import GuestFiles
from imagekit.guest.networkd import DIRECTORY as NETWORKD
from imagekit.guest.networkd import network_file
from imagekit.guest.vif import Vif

NETPLAN = "/etc/netplan"
KEYFILES = "/etc/NetworkManager/system-connections"
INTERFACES = "/etc/network/interfaces"
UDEV = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd")
MAX_FILES = 50
NAMED = r"(?:eth\d+|en(?:s|p|o|x|X)[0-9a-fA-F][0-9a-fs]*)"
"""Names that the kernel or udev gives to a network card."""

_WANTS = "/etc/systemd/system/multi-user.target.wants"
_OURS = "10-imagekit-"
_LINK_PLACE = re.compile(r"(?m)^Path=xen-vif-(\d+)$")
_LINK_NAME = re.compile(rf"(?m)^\s*Name\s*=\s*({NAMED})\s*$")
# A stanza of interfaces(5) begins with one of these words and ends before the next.
_STANZA = re.compile(r"(iface|mapping|auto|allow-\S+|no-auto-down|no-scripts|source\S*|rename)\b")
_CONFIGURED = re.compile(rf"(?m)^[ \t]*iface[ \t]+({NAMED})\b")


def set_network(files: GuestFiles, vifs: Sequence[Vif]) -> str | None:
    """Configure ``vifs`` with what the guest uses; its name, or None if that is not known.

    Raises GuestError when the guest's configuration cannot be replaced.
    """
    stack = stack_of(files)
    if stack is not None and vifs:
        _WRITERS[stack](files, vifs)
    if stack in ("networkd", "ifupdown") and (dns := [d for vif in vifs for d in vif.dns]):
        _resolv_conf(files, dns)
    return stack


def stack_of(files: GuestFiles) -> str | None:
    """What configures the guest's network: a key of the writers, None when that is not known.

    A directory alone says nothing: systemd brings that of networkd along, enabled or not.
    """
    if any(name.endswith(".yaml") for name in files.names(NETPLAN)):
        return "netplan"
    if files.lstat(f"{_WANTS}/systemd-networkd.service") is not None:
        return "networkd"
    if files.lstat(f"{_WANTS}/NetworkManager.service") is not None:
        return "NetworkManager"
    return "ifupdown" if files.stat(INTERFACES) is not None else None


def _networkd(files: GuestFiles, vifs: Sequence[Vif]) -> None:
    for name in files.names(NETWORKD):
        if name.startswith(f"{_OURS}vif"):
            files.remove(f"{NETWORKD}/{name}")
    for index, vif in enumerate(vifs):
        text = network_file(vif)
        files.write(f"{NETWORKD}/{_OURS}vif{index}.network", text.encode(), mode=0o644)


def keyfile(index: int, vif: Vif) -> str:
    """A connection profile of NetworkManager that goes before the guest's own for this card."""
    lines = ["[connection]", f"id=imagekit-vif{index}", "type=ethernet"]
    # -999 to 999, 0 unless a profile says otherwise.
    lines += ["autoconnect-priority=900", "", "[ethernet]", f"mac-address={vif.mac.upper()}"]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        addresses = _of(version, vif.addresses)
        gateways, dns = _of(version, vif.gateways), _of(version, vif.dns)
        method = "auto" if not vif.addresses or version == 6 else "disabled"
        lines += ["", f"[{section}]", f"method={'manual' if addresses else method}"]
        lines += [f"address{number}={a}" for number, a in enumerate(addresses, 1)]
        if addresses:
            lines += _default_route(vif, section, gateways[:1])
        if dns:
            lines.append("dns=" + "".join(f"{server};" for server in dns))
    return "\n".join(lines) + "\n"


def _default_route(vif: Vif, section: str, gateways: Sequence[str]) -> list[str]:
    everything = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}[section]
    lines = []
    for gateway in gateways:
        if vif.off_link(gateway):
            lines += [f"route1={everything},{gateway}", "route1_options=onlink=true"]
        else:
            lines.append(f"gateway={gateway}")
    return lines


def _network_manager(files: GuestFiles, vifs: Sequence[Vif]) -> None:
    for name in files.names(KEYFILES):
        if name.startswith("imagekit-vif"):
            files.remove(f"{KEYFILES}/{name}")
    for index, vif in enumerate(vifs):
        # NetworkManager does not read profiles that others may read.
        path = f"{KEYFILES}/imagekit-vif{index}.nmconnection"
        files.write(path, keyfile(index, vif).encode(), mode=0o600)


def _netplan(files: GuestFiles, vifs: Sequence[Vif]) -> None:
    """Replace the ethernets; with two entries for one card netplan's backends take either."""
    names = [name for name in files.names(NETPLAN) if name.endswith(".yaml")][:MAX_FILES]
    network: dict[str, Any] = {"version": 2}
    try:
        for name in names:
            found = _netplan_of(files.peek(f"{NETPLAN}/{name}"), f"{NETPLAN}/{name}")
            if isinstance(found.get("renderer"), str):
                network["renderer"] = found["renderer"]
    except GuestError:
        if any(vif.addresses for vif in vifs):
            raise
        return
    ethernets: dict[str, Any] = {}
    for index, vif in enumerate(vifs):
        entry: dict[str, Any] = {"match": {"macaddress": vif.mac}}
        if vif.addresses:
            entry["addresses"] = list(vif.addresses)
            entry["routes"] = netplan_routes(vif)
        else:
            # The hardware address, as golden images have no machine-id to make a DUID of.
            entry |= {"dhcp4": True, "dhcp-identifier": "mac"}
        if vif.dns:
            entry["nameservers"] = {"addresses": list(vif.dns)}
        ethernets[f"vif{index}"] = entry
    for name in names:
        files.remove(f"{NETPLAN}/{name}")
    # JSON is YAML in which no value needs quoting.
    text = json.dumps({"network": {**network, "ethernets": ethernets}}, indent=1)
    files.write(f"{NETPLAN}/50-imagekit.yaml", f"{text}\n".encode(), mode=0o600)


def netplan_routes(vif: Vif) -> list[dict[str, object]]:
    """The default routes of netplan, each of its gateway's family ("default" is both)."""
    return [
        {"to": "default", "via": gateway} | ({"on-link": True} if vif.off_link(gateway) else {})
        for gateway in vif.gateways
    ]


def _netplan_of(text: str, path: str) -> dict[str, Any]:
    """The network of a netplan file that has ethernets alone; raises GuestError for others."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        raise GuestError("cannot be read", where=path) from None
    network = (value or {}).get("network") if isinstance(value or {}, dict) else None
    if network is None and not value:
        return {}
    if not isinstance(network, dict) or set(network) - {"version", "renderer", "ethernets"}:
        raise GuestError(
            "configures more than Ethernet cards, and the clone's network cannot be set",
            where=path,
            hint="use --seed with cloud-init in the image",
        )
    return network


def interfaces(text: str, names: Sequence[str], vifs: Sequence[Vif]) -> str:
    """interfaces(5) with the stanzas of ``names`` replaced by those of ``vifs``."""
    lines = without_stanzas(text, names).rstrip("\n").split("\n")
    for name, vif in zip(names, vifs, strict=True):
        lines += ["", f"allow-hotplug {name}"]
        if not vif.addresses:
            lines.append(f"iface {name} inet dhcp")
        for version, family in ((4, "inet"), (6, "inet6")):
            gateways = _of(version, vif.gateways)[:1]
            for address in _of(version, vif.addresses):
                lines += [f"iface {name} {family} static", f"    address {address}"]
                for gateway in gateways:
                    lines += _default_stanza(vif, version, gateway)
                gateways = []
    return "\n".join(lines).lstrip("\n") + "\n"


def _default_stanza(vif: Vif, version: int, gateway: str) -> list[str]:
    if not vif.off_link(gateway):
        return [f"    gateway {gateway}"]
    # ifupdown's own gateway has no word for it, and busybox's ip no onlink.
    ip = "ip" if version == 4 else "ip -6"
    return [
        f"    post-up {ip} route add {gateway} dev $IFACE",
        f"    post-up {ip} route add default via {gateway} dev $IFACE",
    ]


def without_stanzas(text: str, names: Sequence[str]) -> str:
    """interfaces(5) without what it says of ``names``."""
    kept: list[str] = []
    gone = False
    # Not splitlines(), which takes more for the end of a line than ifupdown does.
    for line in text.removesuffix("\n").split("\n") if text else []:
        words = line.split()
        if words and _STANZA.match(words[0]):
            gone = words[0] in ("iface", "mapping") and words[1:2] != [] and words[1] in names
            if words[0] == "auto" or words[0].startswith("allow-"):
                others = [word for word in words[1:] if word not in names]
                gone = not others
                line = " ".join([words[0], *others])
        if not gone:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _ifupdown(files: GuestFiles, vifs: Sequence[Vif]) -> None:
    directory = f"{INTERFACES}.d"
    others = [f"{directory}/{name}" for name in files.names(directory)[:MAX_FILES]]
    texts = {path: files.text(path) or "" for path in (INTERFACES, *others)}
    given = link_names(files)
    found = {name for text in texts.values() for name in _CONFIGURED.findall(text)}
    spare = sorted(found - set(given.values()), key=by_number)
    names: list[str] = []
    for index in range(len(vifs)):
        name = given.get(index) or next((n for n in spare if n not in names), None)
        name = name or next(n for n in (f"eth{i}" for i in range(99)) if n not in names)
        if index not in given:
            write_link(files, index, name)
        names.append(name)
    for path in others:
        if (text := without_stanzas(texts[path], names)) != texts[path]:
            files.write_text(path, text)
    files.write_text(INTERFACES, interfaces(texts[INTERFACES], names, vifs))


def link_names(files: GuestFiles) -> dict[int, str]:
    """The names that imagekit's .link files give, by the VIF's index."""
    found = {}
    for file in files.names(NETWORKD):
        if file.startswith(_OURS) and file.endswith(".link"):
            text = files.peek(f"{NETWORKD}/{file}")
            place, name = _LINK_PLACE.search(text), _LINK_NAME.search(text)
            if place and name:
                found[int(place[1])] = name[1]
    return found


def write_link(files: GuestFiles, index: int, name: str) -> None:
    """Give the VIF of that index a name (systemd.link(5)), if the guest has systemd's udev.

    Path is what udev's path_id says of a VIF, whatever its MAC address.
    """
    if any(files.stat(path) is not None for path in UDEV):
        text = f"# Written by imagekit.\n[Match]\nPath=xen-vif-{index}\n\n[Link]\nName={name}\n"
        files.write(f"{NETWORKD}/{_OURS}{name}.link", text.encode(), mode=0o644)


def by_number(name: str) -> list[tuple[int, str]]:
    """ens4 before ens10: the order in which their cards are plugged in."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _of(version: int, addresses: Sequence[str]) -> list[str]:
    return [a for a in addresses if ipaddress.ip_interface(a).version == version]


def _resolv_conf(files: GuestFiles, dns: Sequence[str]) -> None:
    if files.stat("/usr/lib/systemd/systemd-resolved") is None:
        text = "".join(f"nameserver {server}\n" for server in dns)
        files.remove("/etc/resolv.conf")
        files.write("/etc/resolv.conf", text.encode(), mode=0o644)


_WRITERS = {
    "networkd": _networkd,
    "NetworkManager": _network_manager,
    "netplan": _netplan,
    "ifupdown": _ifupdown,
}
