"""A guest's NIC as its own network configuration knows it."""

from __future__ import annotations

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
