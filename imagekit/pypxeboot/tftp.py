"""A TFTP client for reading one file from a hostile server over a bad line.

Sources: RFC 1350 (protocol, error codes, transfer ids), RFC 1123 section 4.2.3.1 (sorcerer's
apprentice), RFC 2347 (OACK), RFC 2348 (blksize), RFC 2349 (tsize), RFC 7440 (windowsize). Block
numbers wrap from 65535 to 0, and with servers that do so, to 1.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from imagekit.errors import DownloadError, SpecError
from imagekit.pypxeboot.transfer import Deadline, NotFoundError, Receiver

PORT = 69
RRQ, DATA, ACK, ERROR, OACK = 1, 3, 4, 5, 6
FILE_NOT_FOUND, UNKNOWN_TID, BAD_OPTIONS = 1, 5, 8
DEFAULT_BLKSIZE = 512
WANTED_BLKSIZE = 1408
"""Bytes; what PXELINUX asks for: fits an Ethernet frame behind a tunnel or a VLAN tag."""

WANTED_WINDOW = 16
MAX_NAME = 400
RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0)
REPEAT_ACK_SECONDS = 0.1


@dataclass(frozen=True)
class Packet:
    """One parsed TFTP packet: ``number`` is the block or error code, ``data`` the payload or
    message, ``options`` what an OACK holds (names in lower case)."""

    opcode: int
    number: int = 0
    data: bytes = b""
    options: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Wanted:
    """The options to ask for; a size of 0 leaves that option out."""

    blksize: int = WANTED_BLKSIZE
    windowsize: int = WANTED_WINDOW
    tsize: bool = True

    def pairs(self) -> dict[str, str]:
        """The options in the order they are sent."""
        pairs = {"blksize": str(self.blksize)} if self.blksize else {}
        if self.tsize:
            pairs["tsize"] = "0"
        if self.windowsize > 1:
            pairs["windowsize"] = str(self.windowsize)
        return pairs


def parse(packet: bytes) -> Packet:
    """Read one packet from a server; raises DownloadError when it is malformed."""
    if len(packet) < 4:
        raise DownloadError(f"TFTP packet of only {len(packet)} bytes")
    opcode, number = struct.unpack_from("!HH", packet)
    if opcode == DATA:
        return Packet(DATA, number, packet[4:])
    if opcode == ERROR:
        return Packet(ERROR, number, packet[4:].split(b"\0", 1)[0][:200])
    if opcode == OACK:
        return Packet(OACK, options=_parse_options(packet[2:]))
    raise DownloadError(f"TFTP packet with the opcode {opcode}, which no server sends")


def _parse_options(area: bytes) -> dict[str, str]:
    if not area.endswith(b"\0"):
        raise DownloadError("TFTP option acknowledgement without its final zero")
    words = area[:-1].split(b"\0")
    if len(words) % 2 or len(words) > 16:
        raise DownloadError("TFTP option acknowledgement that is not a list of pairs")
    options: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        key = name.decode("ascii", "replace").lower()
        if key in options:
            raise DownloadError(f"the TFTP server acknowledges the option {key!r} twice")
        options[key] = value.decode("ascii", "replace")
    return options


def request(name: str, wanted: Wanted) -> bytes:
    """A read request for ``name`` in octet mode; raises SpecError for an impossible name."""
    raw = name.encode("utf-8", "surrogateescape")
    if not raw or len(raw) > MAX_NAME or b"\0" in raw:
        raise SpecError(f"this is no usable TFTP file name: {name[:80]!r}")
    fields = [raw, b"octet"]
    for key, value in wanted.pairs().items():
        fields += [key.encode(), value.encode()]
    return struct.pack("!H", RRQ) + b"".join(field + b"\0" for field in fields)


@dataclass(frozen=True)
class Agreed:
    """What the transfer runs with: block size in bytes, window in blocks, file size or None."""

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    tsize: int | None = None


def agree(options: Mapping[str, str], wanted: Wanted) -> Agreed:
    """Check a server's OACK against what was asked; raises DownloadError for any lie in it."""
    asked = wanted.pairs()
    values: dict[str, int] = {}
    for key, text in options.items():
        if key not in asked:
            raise DownloadError(
                f"the TFTP server acknowledges {key[:20]!r}, which nobody asked for"
            )
        if not re.fullmatch("[0-9]{1,12}", text, re.ASCII):
            raise DownloadError(f"the TFTP server answers {key}={text[:20]!r}, not a number")
        values[key] = int(text)
    blksize = values.get("blksize", DEFAULT_BLKSIZE)
    window = values.get("windowsize", 1)
    if "blksize" in values and not 8 <= blksize <= wanted.blksize:
        raise DownloadError(
            f"the TFTP server wants blocks of {blksize} bytes, asked {wanted.blksize}"
        )
    if not 1 <= window <= max(wanted.windowsize, 1):
        raise DownloadError(
            f"the TFTP server wants a window of {window}, asked {wanted.windowsize}"
        )
    return Agreed(blksize, window, values.get("tsize"))


def fetch(
    server: str,
    name: str,
    receiver: Receiver,
    deadline: Deadline,
    *,
    port: int = PORT,
    wanted: Wanted | None = None,
) -> None:
    """Read the file ``name`` from ``server`` (an IPv4 address) into ``receiver``.

    Raises NotFoundError when the server does not have it, DownloadError for everything else that
    goes wrong, before ``deadline`` is over. A server that refuses options is asked without them.
    """
    wanted = wanted or Wanted()
    try:
        _Transfer(server, port, name, receiver, deadline, wanted).run()
    except _OptionsRefusedError:
        plain = Wanted(blksize=0, windowsize=0, tsize=False)
        _Transfer(server, port, name, receiver, deadline, plain).run()


class _OptionsRefusedError(Exception):
    pass


class _Transfer:
    def __init__(
        self,
        server: str,
        port: int,
        name: str,
        receiver: Receiver,
        deadline: Deadline,
        wanted: Wanted,
    ) -> None:
        self._server = server
        self._peer = (server, port)
        self._tid: int | None = None
        self._where = f"tftp://{server}/{name.lstrip('/')}"
        self._receiver = receiver
        self._deadline = deadline
        self._wanted = wanted
        self._agreed = Agreed()
        self._last = request(name, wanted)
        self._last_sent = 0.0
        self._blocks = 0
        self._rolls_to_one = False
        self._unacked = 0
        self._gap_acked = False
        self._got_bytes = 0
        self._oack_seen = False

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            self._sock = sock
            self._transmit()
            while not self._step():
                pass
        if self._agreed.tsize is not None and self._agreed.tsize != self._got_bytes:
            raise self._error(
                f"the server announced {self._agreed.tsize} bytes and sent {self._got_bytes}"
            )

    def _step(self) -> bool:
        """Take in the next useful packet; true when the file is complete."""
        for patience in RETRY_SECONDS:
            end = time.monotonic() + min(patience, self._deadline.remaining())
            while (packet := self._receive(end)) is not None:
                progress = self._handle(packet)
                if progress is not None:
                    return progress
            self._deadline.check("the TFTP transfer", self._where)
            self._transmit()
        raise self._error(
            f"no answer for {sum(RETRY_SECONDS):.0f} s"
            + (f", {self._got_bytes} bytes had come" if self._got_bytes else ""),
            hint="is a TFTP server running there, and does a firewall let UDP through?",
        )

    def _receive(self, end: float) -> Packet | None:
        while (left := end - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                data, (address, port) = self._sock.recvfrom(self._wanted.blksize + 600)
            except TimeoutError:
                return None
            except ConnectionError:
                raise self._error("the server refuses TFTP (no such port)") from None
            except OSError as error:
                raise self._error(f"cannot receive: {error.strerror}") from error
            if address != self._server:
                continue
            if self._tid is None:
                self._tid = port
                self._peer = (self._server, port)
            elif port != self._tid:
                self._reject((address, port), UNKNOWN_TID, "unknown transfer id")
                continue
            try:
                return parse(data)
            except DownloadError as error:
                self._reject(self._peer, 4, "malformed packet")
                raise self._error(error.what) from error
        return None

    def _handle(self, packet: Packet) -> bool | None:
        """True: done; False: something new came; None: nothing new."""
        if packet.opcode == ERROR:
            raise self._server_error(packet)
        if packet.opcode == OACK:
            if self._blocks or self._oack_seen:
                self._acknowledge_again(0)
                return None
            return self._handle_oack(packet.options or {})
        if len(packet.data) > self._agreed.blksize:
            self._reject(self._peer, 4, "oversize block")
            raise self._error(
                f"a block of {len(packet.data)} bytes came, agreed were {self._agreed.blksize}"
            )
        if not self._is_next(packet.number):
            self._acknowledge_again(packet.number)
            return None
        self._accept(packet.data)
        return len(packet.data) < self._agreed.blksize

    def _handle_oack(self, options: Mapping[str, str]) -> bool | None:
        try:
            self._agreed = agree(options, self._wanted)
            if self._agreed.tsize is not None:
                self._receiver.announce(self._agreed.tsize)
        except DownloadError as error:
            self._reject(self._peer, BAD_OPTIONS, "option negotiation failed")
            raise self._error(error.what, hint=error.hint) from error
        self._oack_seen = True
        self._acknowledge()
        return False

    def _is_next(self, number: int) -> bool:
        expected = self._wire_number(self._blocks + 1)
        if number == expected:
            return True
        if self._blocks == 65535 and number == 1 and self._agreed.windowsize == 1:
            self._rolls_to_one = True
            return True
        return False

    def _wire_number(self, count: int) -> int:
        if self._rolls_to_one and count > 65535:
            return (count - 1) % 65535 + 1
        return count & 0xFFFF

    def _accept(self, data: bytes) -> None:
        self._blocks += 1
        self._unacked += 1
        self._gap_acked = False
        self._got_bytes += len(data)
        try:
            self._receiver.write(data)
        except DownloadError:
            self._reject(self._peer, 3, "too much")
            raise
        if len(data) < self._agreed.blksize or self._unacked >= self._agreed.windowsize:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._unacked = 0
        self._last = struct.pack("!HH", ACK, self._wire_number(self._blocks))
        self._transmit()

    def _acknowledge_again(self, number: int) -> None:
        """Tell the server once where the gap in a window is, or that our last word got lost.

        Acknowledging every duplicate would double all traffic from then on (RFC 1123).
        """
        repeated = number == self._wire_number(self._blocks)
        quiet = time.monotonic() - self._last_sent >= REPEAT_ACK_SECONDS
        if self._agreed.windowsize > 1 and not repeated and not self._gap_acked:
            self._gap_acked = True
            self._acknowledge()
        elif repeated and quiet:
            self._acknowledge()

    def _transmit(self) -> None:
        if self._blocks and self._unacked:
            self._unacked = 0
            self._last = struct.pack("!HH", ACK, self._wire_number(self._blocks))
        self._last_sent = time.monotonic()
        try:
            self._sock.sendto(self._last, self._peer)
        except OSError as error:
            raise self._error(f"cannot send: {error.strerror}") from error

    def _reject(self, peer: tuple[str, int], code: int, message: str) -> None:
        packet = struct.pack("!HH", ERROR, code) + message.encode() + b"\0"
        try:
            self._sock.sendto(packet, peer)
        except OSError as error:
            raise self._error(f"cannot send: {error.strerror}") from error

    def _server_error(self, packet: Packet) -> Exception:
        said = packet.data.decode("utf-8", "backslashreplace")
        said = "".join(char if char.isprintable() else "?" for char in said)
        if packet.number == BAD_OPTIONS and self._wanted.pairs() and not self._got_bytes:
            return _OptionsRefusedError()
        if packet.number == FILE_NOT_FOUND and not self._got_bytes:
            return NotFoundError(
                f"the TFTP server does not have this file ({said})", where=self._where
            )
        return self._error(f"the TFTP server says error {packet.number}: {said}")

    def _error(self, what: str, hint: str | None = None) -> DownloadError:
        return DownloadError(what, where=self._where, hint=hint)
