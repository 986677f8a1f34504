"""Renders a guest's network for netplan, and for cloud-init, whose version 2 it is.

Sources: the netplan reference; cloud-init documentation, "Networking config Version 2".
"""

from __future__ import annotations

from typing import Any

from imagekit.guest.network.state import ConfigFile, NetworkState, Vif
from imagekit.spec.yamltext import yaml_flow

DIRECTORY = "/etc/netplan"
PATH = f"{DIRECTORY}/50-imagekit.yaml"


def render(state: NetworkState, backend: str | None = None) -> list[ConfigFile]:
    """The file of ``state``; ``backend`` is what netplan calls its renderer, None its default."""
    network: dict[str, Any] = {"version": 2}
    if backend is not None:
        network["renderer"] = backend
    network["ethernets"] = ethernets(state)
    for entry in network["ethernets"].values():
        if entry.get("dhcp4"):
            # The hardware address, as golden images have no machine-id to make a DUID of.
            entry["dhcp-identifier"] = "mac"
    return [ConfigFile(PATH, yaml_flow({"network": network}, indent=1) + "\n", 0o600)]


def ethernets(state: NetworkState) -> dict[str, dict[str, Any]]:
    """The entries of all NICs by name, in the words that netplan and cloud-init share."""
    return {f"vif{index}": _entry(vif) for index, vif in enumerate(state.vifs)}


def _entry(vif: Vif) -> dict[str, Any]:
    entry: dict[str, Any] = {"match": {"macaddress": vif.mac}}
    if vif.unused:
        return entry | {"link-local": []}
    if vif.addresses:
        entry["addresses"] = list(vif.addresses)
        if found := _routes(vif):
            entry["routes"] = found
    else:
        entry["dhcp4"] = True
    names = {"addresses": list(vif.dns), "search": list(vif.search)}
    if given := {key: value for key, value in names.items() if value}:
        entry["nameservers"] = given
    return entry


def _routes(vif: Vif) -> list[dict[str, object]]:
    """The default routes, each of its gateway's family ("default" is both)."""
    return [
        {"to": "default", "via": gateway} | ({"on-link": True} if vif.off_link(gateway) else {})
        for gateway in vif.gateways
    ]
