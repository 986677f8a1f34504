"""Configs for the servers that serve a published tree: dnsmasq's, ISC dhcpd's, a systemd unit.

Sources: dnsmasq(8) 2.90, dhcpd.conf(5), systemd.exec(5).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.errors import SpecError
from imagekit.host.addresses import is_server_address
from imagekit.netboot.tree import State

DhcpMode = Literal["full", "proxy", "none"]
LEASE = "1h"


@dataclass(frozen=True)
class Service:
    """What to serve, and where. ``address`` is the server's own IPv4 address on ``interface``.

    ``first`` and ``last`` bound the addresses given away (``dhcp`` full); ``network`` is
    ADDRESS/BITS of the wire; ``router`` and ``dns`` are told to guests when given.
    """

    root: Path
    interface: str
    address: str
    network: str
    dhcp: DhcpMode = "proxy"
    first: str = ""
    last: str = ""
    router: str = ""
    dns: str = ""
    http_port: int = 8080

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", self.interface, re.ASCII):
            raise SpecError(f"{self.interface!r} is no interface name")
        _check_path(self.root)
        try:
            network = ipaddress.IPv4Network(self.network, strict=False)
        except ValueError as error:
            raise SpecError(f"{self.network!r} is no IPv4 network: {error}") from None
        needed = [self.address, *([self.first, self.last] if self.dhcp == "full" else [])]
        for address in [*needed, *filter(None, (self.router, self.dns))]:
            if not is_server_address(address):
                raise SpecError(
                    f"{address!r} is not an IPv4 address",
                    hint="full DHCP needs --range FIRST-LAST" if not address else None,
                )
        if any(ipaddress.IPv4Address(address) not in network for address in needed):
            raise SpecError(f"an address is not in {network}", where=", ".join(needed))
        if not 0 <= self.http_port < 65536:
            raise SpecError(f"{self.http_port} is no port")

    @property
    def ip_network(self) -> ipaddress.IPv4Network:
        """The wire's network."""
        return ipaddress.IPv4Network(self.network, strict=False)


def _check_path(path: Path) -> None:
    """Refuse what dnsmasq would read as another path (``read_file`` in its option.c).

    A comma ends the path, a quote starts a string, ``#`` after a blank a comment; other white
    space becomes a blank.
    """
    if re.search(r'[\x00-\x1f\x7f\ud800-\udfff,"]|\s#', str(path), re.ASCII):
        raise SpecError(
            'this path cannot stand in a config: in it is a comma, ", " #", a control character, '
            "or what is no UTF-8",
            where=ascii(str(path)),
            hint="choose another directory",
        )


def dnsmasq_config(service: Service, hosts: Path) -> str:
    """dnsmasq's config: TFTP, DHCP or proxy-DHCP, for the guests in the file ``hosts`` only.

    Raises SpecError for a path that dnsmasq would not read as it is.
    """
    _check_path(hosts)
    network = service.ip_network
    lines = [
        "# Written by imagekit.",
        "port=0",
        f"interface={service.interface}",
        "except-interface=lo",
        "bind-interfaces",
        "log-dhcp",
        "enable-tftp",
        f"tftp-root={service.root / 'tftp'}",
    ]
    if service.dhcp == "none":
        return "\n".join([*lines, ""])
    lines += [
        f"dhcp-hostsfile={hosts}",
        "dhcp-ignore=tag:!known",
        "# Option 175 is how iPXE shows itself.",
        "dhcp-match=set:ipxe,175",
    ]
    if service.dhcp == "proxy":
        lines += [
            f"dhcp-range={network.network_address},proxy,{network.netmask}",
            "pxe-service=tag:!ipxe,x86PC,imagekit,pxelinux.0",
            "pxe-service=tag:ipxe,x86PC,imagekit,boot.ipxe",
        ]
    else:
        lines += [
            f"dhcp-range={service.first},{service.last},{network.netmask},{LEASE}",
            "dhcp-boot=tag:!ipxe,pxelinux.0",
            "dhcp-boot=tag:ipxe,boot.ipxe",
            f"dhcp-option=option:router{',' + service.router if service.router else ''}",
            f"dhcp-option=option:dns-server{',' + service.dns if service.dns else ''}",
            "dhcp-authoritative",
        ]
    return "\n".join([*lines, ""])


def dnsmasq_hosts(state: State) -> str:
    """The guests for ``dhcp-hostsfile``: MAC, address if fixed, name."""
    lines = []
    for name, record in sorted(state.guests.items()):
        parts = [record.mac.replace("-", ":"), *filter(None, [record.ip])]
        host = re.sub("[^A-Za-z0-9-]", "-", name.split(".")[0]).strip("-")
        lines.append(",".join([*parts, *filter(None, [host])]))
    return "".join(f"{line}\n" for line in lines)


def dhcpd_config(service: Service, state: State) -> str:
    """Host blocks for an ISC DHCP server that exists already."""
    lines = ["# Written by imagekit; include this file in the subnet's declaration."]
    lines += [
        "option ipxe-encap code 175 = string;",
        "group {",
        f"  next-server {service.address};",
        '  if exists ipxe-encap { filename "boot.ipxe"; } else { filename "pxelinux.0"; }',
    ]
    for name, record in sorted(state.guests.items()):
        fixed = f" fixed-address {record.ip};" if record.ip else ""
        mac = record.mac.replace("-", ":")
        lines.append(f"  host {name} {{ hardware ethernet {mac};{fixed} }}")
    return "\n".join([*lines, "}", ""])


def systemd_unit(program: Path, arguments: list[str], service: Service) -> str:
    """A unit that runs ``program arguments`` as a service, with no more rights than it needs."""
    words = " ".join(quote_unit(word) for word in [str(program), *arguments])
    rights = "CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_NET_ADMIN CAP_SETUID CAP_SETGID CAP_SETPCAP"
    return f"""[Unit]
Description=Netboot service of imagekit
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={words}
Restart=on-failure
RestartSec=5
CapabilityBoundingSet={rights} CAP_CHOWN CAP_DAC_OVERRIDE CAP_KILL
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={quote_unit(str(service.root))}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_UNIX
RestrictNamespaces=yes
MemoryMax=512M
TasksMax=128

[Install]
WantedBy=multi-user.target
"""


def quote_unit(word: str) -> str:
    """One word of an ExecStart line (systemd.service(5), "Command lines")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9/._=:,+@-]", word) else escaped
