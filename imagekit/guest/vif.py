"""A guest's NIC as its own network configuration knows it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class Vif:
    """A NIC: its ``addresses`` with prefix lengths; without any it asks by DHCP.

    ``dns`` are name servers besides those that DHCP names, ``search`` the domains to look names up
    in.
    """

    mac: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

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
