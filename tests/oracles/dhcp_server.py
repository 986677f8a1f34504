"""The server's side of DHCP, written apart from the client's: reads requests, makes replies."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass
class Request:
    op: int
    htype: int
    hlen: int
    xid: int
    flags: int
    chaddr: bytes
    options: dict[int, bytes]


Server = Callable[[Request], list[bytes]]
"""Answers a request with messages."""


def read_request(raw: bytes) -> Request:
    assert raw[236:240] == bytes([99, 130, 83, 99])
    options, position = {}, 240
    while raw[position] != 255:
        if raw[position] == 0:
            position += 1
            continue
        size = raw[position + 1]
        options[raw[position]] = raw[position + 2 : position + 2 + size]
        position += 2 + size
    (xid,) = struct.unpack("!I", raw[4:8])
    (flags,) = struct.unpack("!H", raw[10:12])
    return Request(raw[0], raw[1], raw[2], xid, flags, raw[28:34], options)


def reply(
    request: Request,
    *,
    kind: int,
    yiaddr: str = "192.0.2.150",
    siaddr: str = "192.0.2.1",
    file: bytes = b"pxelinux.0",
    sname: bytes = b"",
    options: list[tuple[int, bytes]],
    xid: int | None = None,
    chaddr: bytes | None = None,
) -> bytes:
    raw = bytes([2, 1, 6, 0])
    raw += struct.pack("!IHH", request.xid if xid is None else xid, 0, request.flags)
    raw += bytes(4) + socket.inet_aton(yiaddr) + socket.inet_aton(siaddr) + bytes(4)
    raw += (request.chaddr if chaddr is None else chaddr).ljust(16, b"\0")
    raw += sname.ljust(64, b"\0") + file.ljust(128, b"\0") + bytes([99, 130, 83, 99, 53, 1, kind])
    for code, value in options:
        raw += bytes([code, len(value)]) + value
    return raw + b"\xff"


def honest(
    server: str = "192.0.2.1",
    *,
    siaddr: str = "192.0.2.1",
    file: bytes = b"pxelinux.0",
    nak: bool = False,
    acked_address: str = "192.0.2.150",
    xid: int | None = None,
    chaddr: bytes | None = None,
    options: Mapping[int, bytes] | None = None,
) -> Server:
    """A server; ``options`` are DHCP options by number."""

    def answer(request: Request) -> list[bytes]:
        kind = request.options[53][0]
        if kind == 3 and request.options.get(54) != socket.inet_aton(server):
            return []
        said = [(54, socket.inet_aton(server)), (1, bytes([255, 255, 255, 0]))]
        said += (options or {}).items()
        if kind == 3 and nak:
            return [reply(request, kind=6, yiaddr="0.0.0.0", options=said)]  # noqa: S104
        return [
            reply(
                request,
                kind=2 if kind == 1 else 5,
                yiaddr="192.0.2.150" if kind == 1 else acked_address,
                siaddr=siaddr,
                file=file,
                options=said,
                xid=xid,
                chaddr=chaddr,
            )
        ]

    return answer


def proxy(server: str) -> Server:
    """A proxy-DHCP server: boot facts, no address."""

    def answer(request: Request) -> list[bytes]:
        if request.options[53][0] != 1:
            return []
        said = [(54, socket.inet_aton(server)), (60, b"PXEClient")]
        none = "0.0.0.0"  # noqa: S104
        return [reply(request, kind=2, options=said, yiaddr=none, siaddr=none, file=b"")]

    return answer


def ones_complement_sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp_payload(packet: bytes) -> tuple[int, int, bytes]:
    source, target, length = struct.unpack("!HHH", packet[20:26])
    return source, target, packet[28 : 20 + length]


def udp_packet(source: str, sport: int, target: str, dport: int, payload: bytes) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    total = 0xFFFF - ones_complement_sum(ends + struct.pack("!HH", 17, len(udp)) + udp)
    udp = udp[:6] + struct.pack("!H", total or 0xFFFF) + udp[8:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ends
    total = 0xFFFF - ones_complement_sum(header)
    return header[:10] + struct.pack("!H", total) + header[12:] + udp
