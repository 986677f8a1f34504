"""The network that QEMU makes itself, without rights on the host (user mode, libslirp).

Source: qemu(1), -netdev user.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.vm.options import option

Bus = Literal["virtio", "ide"]
"""virtio, or for guests without its drivers the disks and cards that every kernel knows."""

QEMU_HOST = "10.0.2.2"
"""The host as a guest of QEMU's network sees it, unless told otherwise (net/slirp.c)."""

_CARDS: dict[Bus, str] = {"virtio": "virtio-net-pci", "ide": "e1000"}


@dataclass(frozen=True)
class Subnet:
    """The addresses of QEMU's network: QEMU itself is ``gateway``.

    ``first`` is what its DHCP server gives to the guest, ``dns`` its name server; both are for
    IPv4, and empty for QEMU's own choice.
    """

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str
    first: str = ""
    dns: str = ""


@dataclass(frozen=True)
class NetworkBoot:
    """What the card's PXE ROM is offered: ``program``, a file name below the directory ``tftp``."""

    tftp: Path
    program: str


@dataclass(frozen=True)
class Card:
    """One network card in QEMU's user network.

    ``restrict``: the guest reaches QEMU's own DHCP server and nothing else. Without ``rom`` the
    card cannot boot; ``bootindex`` is its place in the order of boot, None for none. An empty
    ``mac`` is QEMU's.
    """

    bus: Bus = "virtio"
    mac: str = ""
    restrict: bool = False
    subnet: Subnet | None = None
    boot: NetworkBoot | None = None
    rom: bool = True
    bootindex: int | None = None

    def argv(self) -> list[str]:
        """The options for it."""
        return [
            *option(
                "-netdev",
                "user",
                id="net",
                restrict=True if self.restrict else None,
                **_addresses(self.subnet),
                tftp=self.boot.tftp if self.boot else None,
                bootfile=self.boot.program if self.boot else None,
            ),
            *option(
                "-device",
                _CARDS[self.bus],
                netdev="net",
                mac=self.mac or None,
                romfile=None if self.rom else "",
                bootindex=self.bootindex,
            ),
        ]


def _addresses(subnet: Subnet | None) -> dict[str, str | None]:
    if subnet is None:
        return {}
    if subnet.network.version == 6:
        return {"ipv6-net": str(subnet.network), "ipv6-host": subnet.gateway}
    return {
        "net": str(subnet.network),
        "host": subnet.gateway,
        "dhcpstart": subnet.first or None,
        "dns": subnet.dns or None,
    }
