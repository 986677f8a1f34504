"""What of the host's loopback a sandbox is let reach, and the gate that lets it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from imagekit.errors import HostError
from imagekit.host import tools
from imagekit.host.sandbox import gate_child, means, network
from imagekit.host.sandbox.gate_child import Door
from imagekit.host.sandbox.network import Forward, loopback_forwards, resolver_forwards

HOSTS = """
127.0.0.1 localhost
127.0.1.1 Builder.example builder  # this host
::1 ip6-localhost
192.0.2.7 mirror.example
not-an-address odd
127.0.0.9
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    return path


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://127.0.0.1:3142/debian", [("127.0.0.1", 3142)]),
        ("http://user:secret@127.9.8.7:99/", [("127.9.8.7", 99)]),
        ("http://127.0.0.1/debian", [("127.0.0.1", 80)]),
        ("https://127.0.0.1/debian", [("127.0.0.1", 443)]),
        ("ftp://127.0.0.1/debian", [("127.0.0.1", 21)]),
        ("http://[::1]:8080/", [("::1", 8080)]),
        ("http://[::ffff:127.0.0.1]:8080/", [("127.0.0.1", 8080)]),
        ("http://0.0.0.0:81/", [("127.0.0.1", 81)]),
        ("http://[::]:81/", [("::1", 81)]),
        ("http://localhost:82/", [("127.0.0.1", 82), ("::1", 82)]),
        ("http://LOCALHOST:82/", [("127.0.0.1", 82), ("::1", 82)]),
        ("http://apt.localhost:82/", [("127.0.0.1", 82), ("::1", 82)]),
        ("http://builder:83/", [("127.0.1.1", 83)]),
        ("http://BUILDER.example:83/", [("127.0.1.1", 83)]),
        ("http://ip6-localhost:83/", [("::1", 83)]),
        ("http://mirror.example:84/", []),
        ("http://192.0.2.7:84/", []),
        ("http://localhost.example:84/", []),
        ("http://odd:84/", []),
        ("http://unknown.invalid/", []),
        ("file:///srv/mirror", []),
        ("copy:/srv/mirror", []),
        ("http://127.0.0.1:0/", []),
        ("http://127.0.0.1:99999/", []),
        ("http://127.0.0.1:port/", []),
    ],
)
def test_only_the_host_and_port_of_a_url_on_the_loopback_are_let_through(
    url: str, found: list[tuple[str, int]], hosts: Path
) -> None:
    forwards = loopback_forwards([url, url], hosts)
    assert [(f.address, f.port) for f in forwards] == found
    assert all(f.protocol == "tcp" for f in forwards)


def test_dns_does_not_decide_what_is_let_through(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_args: object, **_more: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert loopback_forwards(["http://rebinding.example:6379/"], hosts) == ()


def test_the_resolver_on_the_loopback_is_let_through_by_its_port(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 127.0.0.9\nsearch example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n"
        "nameserver ::1\nnameserver\nnameserver 127.0.0.53\noptions edns0\nnameserver nonsense\n"
    )
    expected = [("udp", "127.0.0.53"), ("tcp", "127.0.0.53"), ("udp", "::1"), ("tcp", "::1")]
    assert [(f.protocol, f.address) for f in resolver_forwards(path)] == expected
    assert {f.port for f in resolver_forwards(path)} == {53}
    assert resolver_forwards(tmp_path / "none") == ()


def test_without_a_tun_device_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(network, "TUN", tmp_path / "tun")
    with pytest.raises(HostError) as caught, network.connected():
        pass
    assert "tun" in str(caught.value)
    assert "modprobe tun" in str(caught.value.hint)
    assert "--allow-unsandboxed" in str(caught.value.hint)


def test_without_slirp4netns_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tun").touch()
    monkeypatch.setattr(network, "TUN", tmp_path / "tun")

    def find(tool: str) -> Path | None:
        return None if tool == "slirp4netns" else there(tool)

    there = tools.find
    monkeypatch.setattr(tools, "find", find)
    with pytest.raises(HostError) as caught, network.connected():
        pass
    assert "apt-get install slirp4netns" in str(caught.value.hint)


def test_the_hosts_network_is_used_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(network, "TUN", tmp_path / "tun")
    with means.allow_unsandboxed() as lost, network.connected() as made:
        assert made is None
    assert lost == [means.NETWORK]
    with means.allow_unsandboxed(allowed=False), pytest.raises(HostError), network.connected():
        pass


def test_what_is_let_through_ends_with_the_block() -> None:
    first, second = Forward("tcp", "127.0.0.1", 1), Forward("tcp", "127.0.0.1", 2)
    with network.let_through([first]):
        with network.let_through([second]):
            assert network._LET_THROUGH.get() == (first, second)
        assert network._LET_THROUGH.get() == (first,)
    assert network._LET_THROUGH.get() == ()


Client = Callable[[int, int], Awaitable[None]]


def through_the_gate(protocol: str, client: Client) -> None:
    """Run ``client`` with the port of the gate and the port that it leads to, which is free."""

    async def run() -> None:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as kept:
            kept.bind(("127.0.0.1", 0))
            target = kept.getsockname()[1]
        gate = gate_child.listener(protocol, "127.0.0.1", 0)
        port = gate.getsockname()[1]
        ours, theirs = os.pipe()
        kept_input = os.dup(0)
        os.dup2(ours, 0)
        try:
            door = Door(protocol, "127.0.0.1", target)
            serving = asyncio.create_task(gate_child.serve([gate], [door]))
            await asyncio.wait_for(client(port, target), 60)
            os.close(theirs)
            await asyncio.wait_for(serving, 60)
        finally:
            os.dup2(kept_input, 0)
            os.close(kept_input)
            os.close(ours)

    asyncio.run(run())


def test_the_gate_carries_both_ways_and_half_closed_connections(
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = os.urandom(3 << 20)

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read(-1)  # until the other side says that it has no more
        writer.write(received[::-1])
        await writer.drain()
        writer.close()

    async def client(port: int, target: int) -> None:
        await asyncio.start_server(upstream, "127.0.0.1", target)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(large)
        writer.write_eof()
        assert await reader.read(-1) == large[::-1]
        writer.close()

    through_the_gate("tcp", client)
    assert capsys.readouterr().out == "ready\n"


def test_a_connection_ends_where_nothing_listens_on_the_host() -> None:
    async def client(port: int, _target: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        writer.close()

    through_the_gate("tcp", client)


def test_the_gate_holds_a_limited_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_child, "CONNECTIONS", 2)

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        await reader.read(-1)
        writer.close()

    async def client(port: int, target: int) -> None:
        await asyncio.start_server(upstream, "127.0.0.1", target)
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, _writer in opened:
            assert await reader.readexactly(4) == b"here"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        for one in (writer, *(w for _r, w in opened)):
            one.close()

    through_the_gate("tcp", client)


def test_only_what_listens_on_the_host_listens_inside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        assert gate_child.answers(Door("tcp", "127.0.0.1", port))
    assert not gate_child.answers(Door("tcp", "127.0.0.1", port))
    assert gate_child.answers(Door("udp", "127.0.0.1", port))


class Asks(asyncio.DatagramProtocol):
    """Sends one datagram and waits for its answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.answer.set_result(data)


class Answers(asyncio.DatagramProtocol):
    """Answers in capitals."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data.upper(), addr)


def test_the_gate_carries_datagrams_and_each_answer_to_its_client() -> None:
    async def client(port: int, target: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Answers, local_addr=("127.0.0.1", target))
        clients = [
            await loop.create_datagram_endpoint(Asks, remote_addr=("127.0.0.1", port))
            for _ in range(5)
        ]
        for number, (transport, _asks) in enumerate(clients):
            transport.sendto(f"question {number}".encode())
        for number, (_transport, asks) in enumerate(clients):
            assert await asks.answer == f"QUESTION {number}".encode()

    through_the_gate("udp", client)
