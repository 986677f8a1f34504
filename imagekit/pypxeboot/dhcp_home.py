"""DHCP with a server on this very host, which a packet socket alone does not reach.

Frames of a packet socket on a bridge leave through its ports and are not handed to the host's own
stack (``net/bridge/br_device.c``), so a dnsmasq in dom0 would never hear them; its answers leave as
well, and a packet socket sees leaving frames only when it asks for every protocol (packet(7)).

Sources: packet(7), bpf in Linux Documentation/networking/filter.rst, linux/filter.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from pathlib import Path

ETH_P_ALL = 0x0003
SO_ATTACH_FILTER = 26
AD_PROTOCOL = 0xFFFFF000
"""SKF_AD_OFF + SKF_AD_PROTOCOL: the EtherType."""

MAX_TABLE = 1 << 20
# struct sock_filter: code, jump if true, jump if false, operand. Offsets start at the IP header.
_PROGRAM = (
    (0x28, 0, 0, AD_PROTOCOL),  # ldh proto
    (0x15, 0, 7, 0x0800),  # jeq IPv4
    (0x30, 0, 0, 9),  # ldb [9]
    (0x15, 0, 5, 17),  # jeq UDP
    (0x28, 0, 0, 6),  # ldh [6]
    (0x45, 3, 0, 0x1FFF),  # jset: a later fragment
    (0xB1, 0, 0, 0),  # ldx 4*([0]&0xf)
    (0x48, 0, 0, 2),  # ldh [x+2]
    (0x15, 1, 0, 68),  # jeq the client's port
    (0x06, 0, 0, 0),  # ret: drop
    (0x06, 0, 0, 0xFFFF),  # ret: take
)


def only_answers(sock: socket.socket) -> None:
    """Let the packet socket ``sock`` take nothing but UDP to port 68; raises OSError."""
    code = b"".join(struct.pack("=HBBI", *step) for step in _PROGRAM)
    program = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HP", len(_PROGRAM), ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)


def server_is_here(table: Path = Path("/proc/net/udp")) -> bool:
    """Whether something on this host listens on the port of DHCP servers (67)."""
    try:
        with table.open("rb") as stream:
            lines = stream.read(MAX_TABLE).decode("ascii", "replace").splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[1:2] and line.split()[1].endswith(":0043") for line in lines)


def broadcaster(interface: str) -> socket.socket:
    """A UDP socket whose broadcasts on ``interface`` this host's own servers hear too."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    except OSError:
        sock.close()
        raise
    return sock


def broadcast(sock: socket.socket, message: bytes) -> None:
    """Send ``message`` to whoever on this host listens on port 67."""
    # A bridge without an address has no server of this host on it.
    with contextlib.suppress(OSError):
        sock.sendto(message, ("255.255.255.255", 67))
