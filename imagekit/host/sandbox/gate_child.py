"""The gate between a sandbox's network and single ports of the host's loopback.

Run by imagekit.host.sandbox.network as a program of its own, in the host's network. Standard input
holds the job as JSON: the id of a process in the network namespace, and the fields of each
:class:`Door`. The same address and port listen inside and lead to the host's. It prints "ready"
when they do, and ends when standard input is closed. Exit status 125: the gate could not be made.
It uses nothing but the standard library and ``syscalls``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import socket
import struct
import sys
from typing import Any, NamedTuple, cast

from imagekit.host import syscalls

SIOCADDRT = 0x890B  # linux/sockios.h
RTF_UP, RTF_REJECT = 0x1, 0x200  # linux/route.h
EEXIST = 17
NOBODY = 65534
CONNECTIONS = 256
"""Of each forward at once; apt uses a handful."""
SILENT_SECONDS = 20
"""After which an answer to a datagram is not waited for any more: resolv.conf(5) waits 5 s."""


class Door(NamedTuple):
    """A port of the host: the protocol ("tcp" or "udp"), its address, its number."""

    protocol: str
    address: str
    port: int


def join(pid: int) -> None:
    """Enter the user namespace of ``pid``, if it is another one, and its network; raises OSError.

    Of a process with one thread, for setns(2) asks for that.
    """
    for name, kind in (("user", syscalls.NEWUSER), ("net", syscalls.NEWNET)):
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:  # noqa: PTH116
            continue
        opened = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(opened, kind)
        os.close(opened)


def close_loopback() -> None:
    """Refuse packets for 127.0.0.0/8 on every interface but lo.

    SO_BINDTODEVICE would send them out by the other one, and slirp4netns would hand them to the
    host's loopback. The table "local", which comes first, keeps lo working.
    """
    sockaddr = struct.Struct("=HH4s8x")
    net = sockaddr.pack(socket.AF_INET, 0, bytes((127, 0, 0, 0)))
    mask = sockaddr.pack(socket.AF_INET, 0, bytes((255, 0, 0, 0)))
    # struct rtentry of linux/route.h
    route = struct.pack(
        "@L16s16s16sHhLPhPLLH", 0, net, bytes(16), mask, RTF_UP | RTF_REJECT, *([0] * 8)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        try:
            fcntl.ioctl(plain, SIOCADDRT, route)
        except OSError as error:
            if error.errno != EEXIST:
                raise


def listener(protocol: str, address: str, port: int) -> socket.socket:
    """A socket that waits at ``address`` and ``port``; raises OSError."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    waiting = socket.socket(family, kind)
    waiting.bind((address, port))
    if protocol == "tcp":
        waiting.listen(64)
    return waiting


def answers(door: Door) -> bool:
    """Whether something listens there: where nothing does, nothing shall inside either.

    Of the two addresses of localhost a program then takes the one that works.
    """
    if door.protocol != "tcp":
        return True
    try:
        socket.create_connection((door.address, door.port), SILENT_SECONDS).close()
    except OSError:
        return False
    return True


def sockets_inside(pid: int, doors: list[Door]) -> list[socket.socket]:
    """The listeners of ``doors``, made in the network of ``pid``; raises OSError.

    A socket stays in the network that it was made in, so a child makes them and hands them over.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(OSError):
            try:
                join(pid)
                close_loopback()
                made = [listener(*door) for door in doors]
                socket.send_fds(theirs, [b"ok"], [s.fileno() for s in made])
                status = 0
            except OSError as error:
                theirs.send(str(error).encode())
        os._exit(status)
    theirs.close()
    said, descriptors, _flags, _address = socket.recv_fds(ours, 4096, len(doors) or 1)
    ours.close()
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(said.decode("utf-8", "replace") or "a process in the network ended")
    return [socket.socket(fileno=opened) for opened in descriptors]


def give_up_rights() -> None:
    """Go on as nobody where we are root, and never get more rights."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.no_new_privileges()


class Streams:
    """Copies TCP connections to one address and port of the host."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._open = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from inside, to its end."""
        if self._open >= CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            there = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._copy(reader, there[1]), self._copy(there[0], writer))
            finally:
                there[1].transport.abort()
        except OSError:
            pass  # the other side sees that its connection ends
        finally:
            writer.transport.abort()
            self._open -= 1

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class Answer(asyncio.DatagramProtocol):
    """Takes what the host answers to one client inside."""

    def __init__(self, inside: asyncio.DatagramTransport, client: Any) -> None:
        self._inside, self._client = inside, client

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 - asyncio's name
        """Hand the answer on."""
        self._inside.sendto(data, self._client)


class Datagrams(asyncio.DatagramProtocol):
    """Copies UDP datagrams to one address and port of the host, and their answers back."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket inside, by which answers go."""
        self._inside = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Ask the host, unless too many answers are waited for."""
        if len(self._tasks) < CONNECTIONS:
            task = asyncio.get_running_loop().create_task(self._ask(data, addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, data: bytes, client: Any) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            there, _ = await loop.create_datagram_endpoint(
                lambda: Answer(self._inside, client), remote_addr=self._target
            )
            there.sendto(data)
            await asyncio.sleep(SILENT_SECONDS)
            there.close()


async def serve(made: list[socket.socket], doors: list[Door]) -> None:
    """Forward until standard input is closed."""
    loop = asyncio.get_running_loop()
    for waiting, door in zip(made, doors, strict=True):
        where = (door.address, door.port)
        waiting.settimeout(0)  # as asyncio wants it
        if door.protocol == "tcp":
            await asyncio.start_server(Streams(*where).connected, sock=waiting)
        else:
            await loop.create_datagram_endpoint(
                lambda where=where: Datagrams(*where),  # type: ignore[misc]
                sock=waiting,
            )
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    print("ready", flush=True)
    await ended.wait()


def main() -> int:
    """Read the job, make the gate, forward."""
    pid, *rest = json.loads(sys.stdin.readline())
    doors = [door for door in (Door(*fields) for fields in rest) if answers(door)]
    try:
        made = sockets_inside(pid, doors)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return 125
    give_up_rights()
    asyncio.run(serve(made, doors))
    return 0
