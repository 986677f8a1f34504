"""A DHCP client that asks for somebody else's MAC, over a packet socket.

A packet socket and not UDP port 68, because dom0's own DHCP client may hold that port. Frames
leave with dom0's hardware address and carry the guest's in chaddr and in the client id. A server
in dom0 itself is asked by UDP as well (:mod:`imagekit.pypxeboot.dhcp_home`).

Sources: RFC 791, RFC 768 (headers and checksums), RFC 2131 section 4.1 (retransmission),
packet(7), linux/if_packet.h (PACKET_AUXDATA, TP_STATUS_CSUMNOTREADY).
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imagekit.errors import DownloadError, HostError, SpecError
from imagekit.pypxeboot import dhcp, dhcp_home
from imagekit.pypxeboot.transfer import Deadline

ETH_P_IP = 0x0800
SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_CSUMNOTREADY = 1 << 3
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SETTLE_SECONDS = 1.0
"""How long to go on listening after the first offer, for a second server that contradicts it."""

MAX_OFFERS = 16


class Wire(Protocol):
    """Where DHCP messages go to and come from."""

    def send(self, message: bytes) -> None:
        """Broadcast one DHCP message from port 68 to port 67."""

    def receive(self, seconds: float) -> bytes | None:
        """The next message for port 68, or None when none came within ``seconds``."""


class PacketWire:
    """A Wire on a network interface of this host (in dom0: the guest's bridge).

    Raises SpecError for an interface that does not exist, HostError without CAP_NET_RAW.
    """

    def __init__(self, interface: str) -> None:
        if not (Path("/sys/class/net") / interface).exists() or "/" in interface:
            raise SpecError(
                f"there is no network interface {interface!r} on this host",
                hint="give the guest's bridge with --interface or bridge=",
            )
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0
            )
        except PermissionError:
            raise HostError(
                "a packet socket needs CAP_NET_RAW", hint="run as root, as the toolstacks do"
            ) from None
        self.interface = interface
        self._home: socket.socket | None = None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            dhcp_home.only_answers(self._socket)
            self._socket.bind((interface, dhcp_home.ETH_P_ALL))
            if dhcp_home.server_is_here():
                self._home = dhcp_home.broadcaster(interface)
        except OSError as error:
            self.close()
            raise HostError(f"cannot listen: {error.strerror}", where=interface) from error

    def send(self, message: bytes) -> None:
        """Broadcast ``message``; raises HostError when the interface is down."""
        packet = wrap(message)
        try:
            self._socket.sendto(packet, (self.interface, ETH_P_IP, 0, 0, b"\xff" * 6))
        except OSError as error:
            raise HostError(
                f"cannot send: {error.strerror}", where=self.interface, hint="is the bridge up?"
            ) from error
        if self._home is not None:
            dhcp_home.broadcast(self._home, message)

    def receive(self, seconds: float) -> bytes | None:
        """The next DHCP reply for any client on this wire, checksums verified."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                packet, ancillary, flags, _ = self._socket.recvmsg(dhcp.MAX_MESSAGE + 128, 64)
            except TimeoutError:
                return None
            except OSError as error:
                raise HostError(
                    f"cannot receive: {error.strerror}", where=self.interface
                ) from error
            if flags & socket.MSG_TRUNC:
                continue
            payload = unwrap(packet, checksum_ready=_checksum_ready(ancillary))
            if payload is not None:
                return payload
        return None

    def filenos(self) -> list[int]:
        """The descriptors of its sockets."""
        return [sock.fileno() for sock in (self._socket, self._home) if sock is not None]

    def close(self) -> None:
        """Give the sockets back."""
        for sock in (self._socket, self._home):
            if sock is not None:
                sock.close()


def _checksum_ready(ancillary: list[tuple[int, int, bytes]]) -> bool:
    # A server on the same host never fills in the UDP checksum: the kernel leaves that to a
    # network card which the frame will not meet.
    for level, kind, data in ancillary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA and len(data) >= 4:
            status: int = struct.unpack_from("=I", data)[0]
            return not status & TP_STATUS_CSUMNOTREADY
    return True


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of ``data``."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def wrap(message: bytes) -> bytes:
    """``message`` in UDP 68 to 67 and IPv4 0.0.0.0 to 255.255.255.255."""
    source, target = bytes(4), b"\xff" * 4
    length = 8 + len(message)
    pseudo = source + target + struct.pack("!BBH", 0, 17, length)
    udp = struct.pack("!HHHH", 68, 67, length, 0) + message
    total = checksum(pseudo + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", total) + udp[8:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0x10, 20 + length, 0, 0, 64, 17, 0, source, target)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return header + udp


def unwrap(packet: bytes, *, checksum_ready: bool = True) -> bytes | None:
    """The UDP payload of an IPv4 packet from port 67 to port 68, None for any other packet."""
    if len(packet) < 28 or packet[0] >> 4 != 4:
        return None
    header_size = (packet[0] & 15) * 4
    total, fragment = struct.unpack_from("!H2xH", packet, 2)
    if header_size < 20 or not header_size + 8 <= total <= len(packet):
        return None
    if packet[9] != 17 or fragment & 0x3FFF or checksum(packet[:header_size]):
        return None
    udp = packet[header_size:total]
    source, target, length, given = struct.unpack_from("!HHHH", udp)
    if (source, target) != (67, 68) or not 8 <= length <= len(udp):
        return None
    udp = udp[:length]
    if given and checksum_ready:
        pseudo = packet[12:20] + struct.pack("!BBH", 0, 17, length)
        if checksum(pseudo + udp):
            return None
    return udp[8:]


@dataclass(frozen=True)
class Policy:
    """Whom to believe. ``servers`` are DHCP server addresses (empty: any); ``offer_only`` stops
    after the offer, so that no lease is used up; ``need_boot_server`` is false when the caller
    knows the boot server already."""

    servers: Collection[str] = ()
    offer_only: bool = False
    need_boot_server: bool = True


def acquire(wire: Wire, client: dhcp.Client, policy: Policy, deadline: Deadline) -> dhcp.Lease:
    """Get an address and boot facts for ``client``; raises DownloadError in bounded time.

    Boot facts of a proxy-DHCP server complete an offer that has none. Two servers that disagree
    about booting are an error, for either may be a stranger's.
    """
    return _Exchange(wire, client, policy, deadline).run()


class _Exchange:
    def __init__(self, wire: Wire, client: dhcp.Client, policy: Policy, deadline: Deadline) -> None:
        self._wire = wire
        self._client = client
        self._policy = policy
        self._deadline = deadline
        self._xid = secrets.randbits(32)
        self._started = time.monotonic()
        self._ignored: list[str] = []

    def run(self) -> dhcp.Lease:
        for _ in range(3):
            offers = self._collect_offers()
            chosen = self._choose(offers)
            if self._policy.offer_only:
                return chosen
            confirmed = self._request(chosen)
            if confirmed is not None:
                return confirmed
        raise DownloadError(
            "the DHCP server keeps refusing the address it offers", where=chosen.server_id
        )

    def _send(self, kind: int, extra: list[tuple[int, bytes]]) -> None:
        seconds = int(time.monotonic() - self._started)
        self._wire.send(dhcp.build(self._client, kind, self._xid, seconds=seconds, extra=extra))

    def _replies(self, seconds: float) -> Iterator[dhcp.Message]:
        """Well-formed answers to us within ``seconds``; others are counted and passed over."""
        end = time.monotonic() + min(seconds, self._deadline.remaining())
        while (left := end - time.monotonic()) > 0:
            data = self._wire.receive(left)
            if data is None:
                return
            try:
                message = dhcp.parse(data)
            except DownloadError as error:
                self._ignore(error.what)
                continue
            if message.op != 2 or message.chaddr != self._client.mac:
                continue
            if message.xid != self._xid:
                self._ignore("an answer to another question (wrong xid)")
                continue
            yield message

    def _ignore(self, why: str) -> None:
        if why not in self._ignored and len(self._ignored) < 8:
            self._ignored.append(why)

    def _lease(self, message: dhcp.Message) -> dhcp.Lease | None:
        try:
            lease = dhcp.lease(message)
        except DownloadError as error:
            self._ignore(error.what)
            return None
        if self._policy.servers and lease.server_id not in self._policy.servers:
            self._ignore(f"an offer of {lease.server_id}, which is not an allowed DHCP server")
            return None
        return lease

    def _collect_offers(self) -> list[dhcp.Lease]:
        offers: list[dhcp.Lease] = []
        for attempt, pause in enumerate(RETRY_SECONDS):
            incomplete = any(offer.address for offer in offers) and attempt >= 3
            if incomplete or self._deadline.remaining() <= 0:
                break
            self._send(dhcp.DISCOVER, [])
            patience = pause + random.uniform(-0.2, 0.2) * pause  # noqa: S311
            for message in self._replies(patience):
                lease = self._lease(message) if message.kind == dhcp.OFFER else None
                if lease is not None and lease not in offers:
                    offers.append(lease)
                    if self._complete(offers):
                        self._listen_on(offers)
                        return offers
        if any(offer.address for offer in offers):
            return offers
        raise DownloadError(
            "no DHCP server answered for this guest" + self._remarks(),
            hint="look at the DHCP server's log for the guest's MAC; is the bridge the right one?",
        )

    def _complete(self, offers: list[dhcp.Lease]) -> bool:
        has_address = any(offer.address for offer in offers)
        has_server = any(offer.can_boot for offer in offers)
        return has_address and (has_server or not self._policy.need_boot_server)

    def _listen_on(self, offers: list[dhcp.Lease]) -> None:
        for message in self._replies(SETTLE_SECONDS):
            lease = self._lease(message) if message.kind == dhcp.OFFER else None
            if lease is not None and lease not in offers:
                offers.append(lease)
            if len(offers) >= MAX_OFFERS:
                return

    def _choose(self, offers: list[dhcp.Lease]) -> dhcp.Lease:
        able = [offer for offer in offers if offer.can_boot]
        booting = [offer for offer in able if offer.is_explicit] or able
        if len({offer.boot_facts for offer in booting}) > 1:
            told = ", ".join(
                f"{o.server_id or 'unnamed'} says boot from {o.boot_server or o.bootfile}"
                for o in booting[:4]
            )
            raise DownloadError(
                f"DHCP servers contradict each other: {told}",
                hint="name the right one with --dhcp-server, or remove the other",
            )
        addressed = [offer for offer in offers if offer.address]
        chosen = next((offer for offer in addressed if offer in booting), addressed[0])
        if booting and chosen not in booting:
            chosen = _with_boot(chosen, booting[0])
        if not chosen.can_boot and self._policy.need_boot_server:
            raise DownloadError(
                "the DHCP server names no boot server (next-server, option 66 or 150)"
                + self._remarks(),
                where=chosen.server_id,
                hint="configure it there, or give --next-server",
            )
        return chosen

    def _request(self, offer: dhcp.Lease) -> dhcp.Lease | None:
        extra = [
            (dhcp.REQUESTED_IP, socket.inet_aton(offer.address)),
            (dhcp.SERVER_ID, socket.inet_aton(offer.server_id or "0.0.0.0")),  # noqa: S104
        ]
        for pause in RETRY_SECONDS[:5]:
            self._deadline.check("the DHCP request" + self._remarks())
            self._send(dhcp.REQUEST, extra)
            for message in self._replies(pause):
                if message.kind == dhcp.NAK:
                    return None
                lease = self._lease(message) if message.kind == dhcp.ACK else None
                if lease is None or lease.server_id != offer.server_id:
                    continue
                if lease.address != offer.address:
                    raise DownloadError(
                        f"the DHCP server offered {offer.address} and gave {lease.address}",
                        where=offer.server_id,
                    )
                return _with_boot(lease, offer)
        raise DownloadError(
            "the DHCP server offered an address and then fell silent" + self._remarks(),
            where=offer.server_id,
        )

    def _remarks(self) -> str:
        return f" (passed over: {'; '.join(self._ignored)})" if self._ignored else ""


def _with_boot(address: dhcp.Lease, boot: dhcp.Lease) -> dhcp.Lease:
    return dhcp.Lease(
        address=address.address,
        server_id=address.server_id,
        boot_server=boot.boot_server,
        bootfile=boot.bootfile or address.bootfile,
        netmask=address.netmask,
        router=address.router,
        config_file=boot.config_file or address.config_file,
        path_prefix=boot.path_prefix or address.path_prefix,
        hostname=address.hostname,
    )
