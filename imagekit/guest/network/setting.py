"""Gives a guest its network in the words of whatever configures it there.

A NIC is known by its MAC address; where only interface names are known (ifupdown), its VIF gets
one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml.error import YAMLError

from imagekit.errors import GuestError
from imagekit.guest.files import GuestFiles
from imagekit.guest.network import ifupdown, keyfile, netplan, networkd
from imagekit.guest.network.ifupdown import INTERFACES
from imagekit.guest.network.state import ConfigFile, NetworkState
from imagekit.spec.yamltext import yaml_reader

UDEV = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd")
MAX_FILES = 50
NAMED = r"(?:eth\d+|en(?:s|p|o|x|X)[0-9a-fA-F][0-9a-fs]*)"
"""Names that the kernel or udev gives to a network card."""

_RESOLVED = "/usr/lib/systemd/systemd-resolved"
_WANTS = "/etc/systemd/system/multi-user.target.wants"
_LINK_PLACE = re.compile(r"(?m)^Path=xen-vif-(\d+)$")
_LINK_NAME = re.compile(rf"(?m)^\s*Name\s*=\s*({NAMED})\s*$")
_CONFIGURED = re.compile(rf"(?m)^[ \t]*iface[ \t]+({NAMED})\b")


def set_network(files: GuestFiles, state: NetworkState) -> str | None:
    """Configure the NICs of ``state`` with what the guest uses; its name, or None if not known.

    Raises GuestError when the guest's configuration cannot be replaced.
    """
    stack = stack_of(files)
    if stack is not None and state.vifs:
        _WRITERS[stack](files, state)
    if stack in ("networkd", "ifupdown") and state.dns and files.stat(_RESOLVED) is None:
        _resolv_conf(files, state.dns)
    return stack


def write_networkd(files: GuestFiles, state: NetworkState) -> None:
    """Configure a guest that is made for networkd, and have it ask systemd-resolved if it can."""
    _networkd(files, state)
    files.remove("/etc/resolv.conf")
    if files.stat(_RESOLVED) is not None:
        files.link("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    elif state.dns:
        _resolv_conf(files, state.dns)


def stack_of(files: GuestFiles) -> str | None:
    """What configures the guest's network: a key of the writers, None when that is not known.

    A directory alone says nothing: systemd brings that of networkd along, enabled or not.
    """
    if any(name.endswith(".yaml") for name in files.names(netplan.DIRECTORY)):
        return "netplan"
    if files.lstat(f"{_WANTS}/systemd-networkd.service") is not None:
        return "networkd"
    if files.lstat(f"{_WANTS}/NetworkManager.service") is not None:
        return "NetworkManager"
    return "ifupdown" if files.stat(INTERFACES) is not None else None


def _write(files: GuestFiles, made: Sequence[ConfigFile]) -> None:
    for file in made:
        files.write(file.path, file.text.encode(), mode=file.mode)


def _networkd(files: GuestFiles, state: NetworkState) -> None:
    for name in files.names(networkd.DIRECTORY):
        if name.startswith(f"{networkd.OURS}vif"):
            files.remove(f"{networkd.DIRECTORY}/{name}")
    _write(files, networkd.render(state))


def _network_manager(files: GuestFiles, state: NetworkState) -> None:
    for name in files.names(keyfile.DIRECTORY):
        if name.startswith(keyfile.OURS):
            files.remove(f"{keyfile.DIRECTORY}/{name}")
    _write(files, keyfile.render(state))


def _netplan(files: GuestFiles, state: NetworkState) -> None:
    """Replace the ethernets; with two entries for one card netplan's backends take either."""
    directory = netplan.DIRECTORY
    names = [name for name in files.names(directory) if name.endswith(".yaml")][:MAX_FILES]
    backend = None
    try:
        for name in names:
            found = _netplan_of(files.peek(f"{directory}/{name}"), f"{directory}/{name}")
            if isinstance(found.get("renderer"), str):
                backend = found["renderer"]
    except GuestError:
        if state.static:
            raise
        return
    for name in names:
        files.remove(f"{directory}/{name}")
    _write(files, netplan.render(state, backend))


def _netplan_of(text: str, path: str) -> dict[str, Any]:
    """The network of a netplan file that has ethernets alone; raises GuestError for others."""
    try:
        value = yaml_reader().load(text)
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


def _ifupdown(files: GuestFiles, state: NetworkState) -> None:
    directory = f"{INTERFACES}.d"
    others = [f"{directory}/{name}" for name in files.names(directory)[:MAX_FILES]]
    texts = {path: files.text(path) or "" for path in (INTERFACES, *others)}
    given = link_names(files)
    found = {name for text in texts.values() for name in _CONFIGURED.findall(text)}
    spare = sorted(found - set(given.values()), key=by_number)
    names: list[str] = []
    for index in range(len(state.vifs)):
        name = given.get(index) or next((n for n in spare if n not in names), None)
        name = name or next(n for n in (f"eth{i}" for i in range(99)) if n not in names)
        if index not in given:
            write_link(files, index, name)
        names.append(name)
    for path in others:
        if (text := ifupdown.without_stanzas(texts[path], names)) != texts[path]:
            files.write_text(path, text)
    files.write_text(INTERFACES, ifupdown.render(state, names, texts[INTERFACES]))


def link_names(files: GuestFiles) -> dict[int, str]:
    """The names that imagekit's .link files give, by the VIF's index."""
    found = {}
    for file in files.names(networkd.DIRECTORY):
        if file.startswith(networkd.OURS) and file.endswith(".link"):
            text = files.peek(f"{networkd.DIRECTORY}/{file}")
            place, name = _LINK_PLACE.search(text), _LINK_NAME.search(text)
            if place and name:
                found[int(place[1])] = name[1]
    return found


def write_link(files: GuestFiles, index: int, name: str) -> None:
    """Give the VIF of that index a name, if the guest has systemd's udev."""
    if any(files.stat(path) is not None for path in UDEV):
        _write(files, [networkd.link_file(index, name)])


def by_number(name: str) -> list[tuple[int, str]]:
    """ens4 before ens10: the order in which their cards are plugged in."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _resolv_conf(files: GuestFiles, dns: Sequence[str]) -> None:
    text = "".join(f"nameserver {server}\n" for server in dns)
    files.remove("/etc/resolv.conf")
    files.write("/etc/resolv.conf", text.encode(), mode=0o644)


_WRITERS = {
    "networkd": _networkd,
    "NetworkManager": _network_manager,
    "netplan": _netplan,
    "ifupdown": _ifupdown,
}
