"""The network of an installer: the answers, the mirror, and nothing else of this host or beyond.

QEMU runs in a network namespace of its own, in which every address is its own (see
imagekit.host.confined_child). QEMU's user network opens its guest's connections there, so that they
end at sockets of that namespace, which this process listens on: one for each port of what the guest
may reach, and one for names. A connection to one of the addresses that may be reached is carried on
from the host's network; any other is closed, and on any other port nobody listens. The guest needs
no proxy for it, and keeps nothing of it.

Sources: libslirp src/socket.c (sotranslate_out: the guest's view of the host becomes loopback).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from imagekit.vm.card import QEMU_HOST
from imagekit.vm.names import MAX_QUESTION, Names

DNS = 53
MAX_CONNECTIONS = 64
MAX_NAMES = 256
CONNECT_SECONDS = 30.0
PIECE = 1 << 16
MAX_NOTES = 1000
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, order=True)
class Endpoint:
    """A TCP port of a host, which is named as the guest names it."""

    host: str
    port: int


@dataclass(frozen=True)
class Reach:
    """What a guest reaches. ``alias`` is this host's address in QEMU's network.

    An endpoint at the alias is a port of this host's loopback. ``note`` is told what the guest was
    refused, in a line of printable characters each.
    """

    endpoints: tuple[Endpoint, ...] = ()
    alias: str = QEMU_HOST
    note: Callable[[str], None] = lambda _line: None

    @property
    def ports(self) -> list[int]:
        """The TCP ports that somebody must listen on."""
        return sorted({DNS, *(endpoint.port for endpoint in self.endpoints)})


@dataclass
class Gate:
    """Carries a guest's connections on."""

    reach: Reach
    _open: int = 0
    _noted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        hosts = sorted({endpoint.host for endpoint in self.reach.endpoints})
        version = ipaddress.ip_address(self.reach.alias).version
        self.names = Names([h for h in hosts if _literal(h) is None][:MAX_NAMES], version)
        self.targets = dict(self._targets())

    def _targets(self) -> Iterator[tuple[tuple[str, int], Endpoint]]:
        """Where a connection to (address, port) in the guest's network goes on the host's."""
        alias = _literal(self.reach.alias)
        for endpoint in self.reach.endpoints:
            literal = _literal(endpoint.host)
            if literal is None:
                yield (self.names.address(endpoint.host), endpoint.port), endpoint
            elif literal == alias:
                yield (LOOPBACK, endpoint.port), Endpoint(LOOPBACK, endpoint.port)
            elif not _is_here(literal):
                yield (str(literal), endpoint.port), endpoint

    @contextlib.contextmanager
    def serving(self, descriptors: Sequence[int]) -> Iterator[None]:
        """Serve the listening sockets of ``reach.ports``, then the one for names, for a block."""
        *streams, names = [socket.socket(fileno=fd) for fd in descriptors]
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            servers = [await asyncio.start_server(self._carry, sock=one) for one in streams]
            names.setblocking(False)  # noqa: FBT003 - socket's
            loop.add_reader(names.fileno(), self._answer, names)
            ready.set()
            try:
                await asyncio.gather(*(server.serve_forever() for server in servers))
            finally:
                loop.remove_reader(names.fileno())
                names.close()

        def run() -> None:
            asyncio.set_event_loop(loop)
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            others = asyncio.all_tasks(loop)
            for other in others:
                other.cancel()
            loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        task = loop.create_task(serve())
        thread = threading.Thread(target=run, name="gate", daemon=True)
        thread.start()
        try:
            ready.wait()
            yield
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()

    async def _carry(self, guest: asyncio.StreamReader, to_guest: asyncio.StreamWriter) -> None:
        address, port = _plain(to_guest.get_extra_info("sockname"))
        target = self.targets.get((address, port))
        if port == DNS and target is None:
            await self._answer_stream(guest, to_guest)
        elif target is None or self._open >= MAX_CONNECTIONS:
            why = "refused" if target is None else "too many connections"
            self._say(f"{address} port {port}: {why}")
            to_guest.transport.abort()
        else:
            self._open += 1
            try:
                await self._relay(guest, to_guest, target)
            finally:
                self._open -= 1

    async def _relay(
        self, guest: asyncio.StreamReader, to_guest: asyncio.StreamWriter, target: Endpoint
    ) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                server, to_server = await self._connect(target)
        except (OSError, TimeoutError) as error:
            self._say(f"{target.host} port {target.port}: {error or 'no answer'}")
            to_guest.transport.abort()
            return
        try:
            await asyncio.gather(_pump(guest, to_server), _pump(server, to_guest))
        finally:
            to_server.close()
            to_guest.close()

    async def _connect(self, target: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError; a name may not lead to this host's loopback, only the alias does."""
        if _literal(target.host) is not None:
            return await asyncio.open_connection(target.host, target.port)
        loop = asyncio.get_running_loop()
        error = OSError("the name has no address")
        for *_kind, found in await loop.getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        ):
            literal = _literal(str(found[0]))
            if literal is None or _is_here(literal):
                error = OSError("the name leads to this host's loopback")
                continue
            try:
                return await asyncio.open_connection(str(literal), target.port)
            except OSError as failed:
                error = failed
        raise error

    def _answer(self, names: socket.socket) -> None:
        """Answer from the address that was asked, which is one of ours as all are."""
        with contextlib.suppress(OSError):
            question, control, _flags, sender = names.recvmsg(MAX_QUESTION + 1, 256)
            if answer := self._answered(question):
                names.sendmsg([answer], control, 0, sender)

    async def _answer_stream(
        self, guest: asyncio.StreamReader, to_guest: asyncio.StreamWriter
    ) -> None:
        """One question by TCP, with its length before it (RFC 1035, 4.2.2)."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(CONNECT_SECONDS):
                (length,) = struct.unpack(">H", await guest.readexactly(2))
                answer = self._answered(await guest.readexactly(min(length, MAX_QUESTION + 1)))
                if answer:
                    to_guest.write(struct.pack(">H", len(answer)) + answer)
                    await to_guest.drain()
        to_guest.close()

    def _answered(self, question: bytes) -> bytes | None:
        found = self.names.answer(question)
        if found is None:
            return None
        answer, unknown = found
        if unknown:
            self._say(f"the name {unknown}: refused")
        return answer

    def _say(self, line: str) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in line)
        if shown not in self._noted and len(self._noted) < MAX_NOTES:
            self._noted.add(shown)
            self.reach.note(shown)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Carry bytes until the one side ends, and tell the other."""
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE):
            target.write(piece)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _literal(host: str) -> Address | None:
    """The address that ``host`` is, IPv4 as IPv4; None for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_here(address: Address) -> bool:
    """Whether a connection to it ends at this host's loopback."""
    return address.is_loopback or address.is_unspecified


def _plain(name: tuple[str, int, int, int] | tuple[str, int]) -> tuple[str, int]:
    """A socket's address, IPv4 as IPv4; the host's loopback of either kind as IPv4's."""
    address = _literal(name[0])
    if address is None or address.is_loopback:
        return LOOPBACK, int(name[1])
    return str(address), int(name[1])
