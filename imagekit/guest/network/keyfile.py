"""Renders a guest's network for NetworkManager: nm-settings-keyfile(5)."""

from __future__ import annotations

from collections.abc import Sequence

from imagekit.guest.network.state import ConfigFile, NetworkState, Vif, of_version

DIRECTORY = "/etc/NetworkManager/system-connections"
OURS = "imagekit-vif"


def render(state: NetworkState) -> list[ConfigFile]:
    """A connection profile for each NIC; NetworkManager reads none that others may read."""
    return [
        ConfigFile(f"{DIRECTORY}/{OURS}{index}.nmconnection", keyfile(index, vif), 0o600)
        for index, vif in enumerate(state.vifs)
    ]


def keyfile(index: int, vif: Vif) -> str:
    """A connection profile that goes before the guest's own for this card."""
    lines = ["[connection]", f"id=imagekit-vif{index}", "type=ethernet"]
    # -999 to 999, 0 unless a profile says otherwise.
    lines += ["autoconnect-priority=900", "", "[ethernet]", f"mac-address={vif.mac.upper()}"]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        addresses = of_version(version, vif.addresses)
        gateways, dns = of_version(version, vif.gateways), of_version(version, vif.dns)
        method = "auto" if not vif.addresses or version == 6 else "disabled"
        method = "disabled" if vif.unused else "manual" if addresses else method
        lines += ["", f"[{section}]", f"method={method}"]
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
