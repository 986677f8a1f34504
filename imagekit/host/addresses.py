"""IPv4 addresses that machines can have."""

from __future__ import annotations

import ipaddress


def is_server_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 address that a server on another machine can have."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_loopback
        or int(address) >= 0xF0000000
    )
