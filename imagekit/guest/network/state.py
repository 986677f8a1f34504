"""A guest's network as every renderer is given it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vif:
    """A NIC: its ``addresses`` with prefix lengths; without any it asks by DHCP.

    ``dns`` are name servers besides those that DHCP names, ``search`` the domains to look names up
    in. An ``unused`` one gets no address at all.
    """

    mac: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    unused: bool = False

    def off_link(self, gateway: str) -> bool:
        """Whether no address's network holds ``gateway``: it is on the link all the same.

        So are those of routed guests, whose own network is a /32. An IPv6 address of the link
        itself (fe80::/10) is always in reach.
        """
        place = ipaddress.ip_address(gateway)
        networks = [ipaddress.ip_interface(address).network for address in self.addresses]
        return not place.is_link_local and not any(
            place in network for network in networks if network.version == place.version
        )


@dataclass(frozen=True)
class NetworkState:
    """The NICs of a guest in order.

    ``by_place`` also configures each NIC by its place among the VIFs, for platforms that give it
    another MAC address; ``others_by_dhcp`` lets Ethernet cards that are not among ``vifs`` ask by
    DHCP. Only networkd's renderer knows these two.
    """

    vifs: tuple[Vif, ...]
    by_place: bool = False
    others_by_dhcp: bool = False

    @property
    def dns(self) -> tuple[str, ...]:
        """The name servers of all NICs."""
        return tuple(server for vif in self.vifs for server in vif.dns)

    @property
    def static(self) -> bool:
        """Whether any NIC has a fixed address."""
        return any(vif.addresses for vif in self.vifs)


@dataclass(frozen=True)
class ConfigFile:
    """What a renderer makes: ``text`` for ``path`` in the guest, with its permission bits."""

    path: str
    text: str
    mode: int = 0o644


def of_version(version: int, addresses: Sequence[str]) -> list[str]:
    """Those of ``addresses`` (with or without prefix lengths) that are IPv4 or IPv6."""
    return [a for a in addresses if ipaddress.ip_interface(a).version == version]
