"""Renders a guest's network for ifupdown: interfaces(5), in which other stanzas are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imagekit.guest.network.state import NetworkState, Vif, of_version

INTERFACES = "/etc/network/interfaces"
# A stanza of interfaces(5) begins with one of these words and ends before the next.
_STANZA = re.compile(r"(iface|mapping|auto|allow-\S+|no-auto-down|no-scripts|source\S*|rename)\b")


def render(state: NetworkState, names: Sequence[str], text: str) -> str:
    """interfaces(5) ``text`` with the stanzas of ``names`` replaced by those of the NICs.

    ``names`` are the interfaces of ``state``'s NICs, in their order.
    """
    lines = without_stanzas(text, names).rstrip("\n").split("\n")
    for name, vif in zip(names, state.vifs, strict=True):
        lines += ["", *_stanzas(name, vif)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _stanzas(name: str, vif: Vif) -> list[str]:
    if vif.unused:
        return [f"iface {name} inet manual"]
    lines = [f"allow-hotplug {name}"]
    if not vif.addresses:
        lines.append(f"iface {name} inet dhcp")
    for version, family in ((4, "inet"), (6, "inet6")):
        gateways = of_version(version, vif.gateways)[:1]
        for address in of_version(version, vif.addresses):
            lines += [f"iface {name} {family} static", f"    address {address}"]
            for gateway in gateways:
                lines += _default(vif, version, gateway)
            gateways = []
    return lines


def _default(vif: Vif, version: int, gateway: str) -> list[str]:
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
