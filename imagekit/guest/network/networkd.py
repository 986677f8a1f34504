"""Renders a guest's network for systemd-networkd.

Sources: systemd.network(5), systemd.link(5); udev's path_id of a VIF (``udev-builtin-path_id.c``).
"""

from __future__ import annotations

from imagekit.guest.network.state import ConfigFile, NetworkState, Vif

DIRECTORY = "/etc/systemd/network"
OURS = "10-imagekit-"
_BY_DHCP = ["DHCP=yes", "", "[DHCPv4]", "ClientIdentifier=mac"]
"""The hardware address: golden images have no machine-id to make a DUID of."""


def render(state: NetworkState) -> list[ConfigFile]:
    """The files of ``state``, in the order in which networkd reads them."""
    files = [_file(f"{OURS}vif{i}", _network(vif, by_mac(vif))) for i, vif in enumerate(state.vifs)]
    if state.by_place:
        # Sorted after the files of all MAC addresses: OpenNebula's networks, nova and an XVA
        # imported without restore give other addresses than the spec's.
        for index, vif in enumerate(state.vifs):
            files.append(_file(f"{OURS}vifplace{index}", _network(vif, by_place(index))))
    if state.others_by_dhcp:
        # A golden image's clones have other MACs; one that the spec did not fix binds nothing.
        lines = ["[Match]", "Type=ether", "", "[Network]", *_BY_DHCP]
        files.append(_file("80-imagekit-dhcp", "\n".join(lines) + "\n"))
    return files


def by_mac(vif: Vif) -> str:
    """The match on the NIC's own MAC address."""
    return f"MACAddress={vif.mac}"


def by_place(index: int) -> str:
    """The match on the guest's VIF of that index, whatever MAC address the platform gave it."""
    return f"Path=xen-vif-{index}"


def network_file(vif: Vif) -> str:
    """systemd.network(5) of one NIC, known by its MAC address."""
    return _network(vif, by_mac(vif))


def link_file(index: int, name: str) -> ConfigFile:
    """systemd.link(5) that gives the VIF of that index a name, whatever its MAC address."""
    text = f"# Written by imagekit.\n[Match]\n{by_place(index)}\n\n[Link]\nName={name}\n"
    return ConfigFile(f"{DIRECTORY}/{OURS}{name}.link", text)


def _file(name: str, text: str) -> ConfigFile:
    return ConfigFile(f"{DIRECTORY}/{name}.network", text)


def _network(vif: Vif, match: str) -> str:
    if vif.unused:
        return f"[Match]\n{match}\n\n[Network]\nLinkLocalAddressing=no\n"
    lines = ["[Match]", match, "", "[Network]"]
    if vif.addresses:
        lines += [f"Address={address}" for address in vif.addresses]
        lines += [f"Gateway={gateway}" for gateway in vif.gateways if not vif.off_link(gateway)]
    lines += [f"DNS={server}" for server in vif.dns]
    if vif.search:
        lines.append(f"Domains={' '.join(vif.search)}")
    if not vif.addresses:
        return "\n".join([*lines, *_BY_DHCP]) + "\n"
    for gateway in filter(vif.off_link, vif.gateways):
        lines += ["", "[Route]", f"Gateway={gateway}", "GatewayOnLink=yes"]
    return "\n".join(lines) + "\n"
