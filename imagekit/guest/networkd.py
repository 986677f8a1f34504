"""The addresses of a guest's NICs in systemd.network(5)."""

from __future__ import annotations

from imagekit.guest.vif import Vif

DIRECTORY = "/etc/systemd/network"


def by_mac(vif: Vif) -> str:
    """The match on the NIC's own MAC address."""
    return f"MACAddress={vif.mac}"


def by_place(index: int) -> str:
    """The match on the guest's VIF of that index, whatever MAC address the platform gave it.

    It is what udev's path_id says of a VIF (``udev-builtin-path_id.c``).
    """
    return f"Path=xen-vif-{index}"


def network_file(vif: Vif, match: str | None = None) -> str:
    """systemd.network(5) of one NIC, known by its MAC address unless ``match`` is given."""
    lines = ["[Match]", match or by_mac(vif), "", "[Network]"]
    if vif.addresses:
        lines += [f"Address={address}" for address in vif.addresses]
        lines += [f"Gateway={gateway}" for gateway in vif.gateways if not vif.off_link(gateway)]
    lines += [f"DNS={server}" for server in vif.dns]
    if vif.search:
        lines.append(f"Domains={' '.join(vif.search)}")
    if not vif.addresses:
        lines += ["DHCP=yes", "", "[DHCPv4]", "ClientIdentifier=mac"]
        return "\n".join(lines) + "\n"
    for gateway in filter(vif.off_link, vif.gateways):
        lines += ["", "[Route]", f"Gateway={gateway}", "GatewayOnLink=yes"]
    return "\n".join(lines) + "\n"


def unused_file(match: str) -> str:
    """systemd.network(5) of a NIC that gets no address at all."""
    return f"[Match]\n{match}\n\n[Network]\nLinkLocalAddressing=no\n"
