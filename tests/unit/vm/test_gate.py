"""What a guest's connections come to: what may be reached is, and all else ends here.

The sockets of the guest's network are stood for by sockets of loopback, whose many addresses
(127.0.0.0/8) are the addresses that the guest asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from imagekit.vm import gate
from imagekit.vm.gate import Endpoint, Gate, Reach

ANY = "0.0.0.0"  # noqa: S104
GUESTS = "127.0.18.1"
"""The address that stands for whatever the guest connects to."""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def server() -> Iterator[int]:
    """Says what it is told, backwards, until its client has said all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _peer = listening.accept()
                    with one, one.makefile("rb") as stream:
                        one.sendall(stream.read()[::-1])

        threading.Thread(target=serve, daemon=True).start()
        yield int(listening.getsockname()[1])
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def opened(
    reach: Reach, monkeypatch: pytest.MonkeyPatch, shown: dict[str, str]
) -> Iterator[tuple[Gate, int, int]]:
    """A gate with one stream and the socket for names: it, and their ports.

    ``shown`` are the addresses that the guest asked for, by those of loopback that stand for them.
    """
    real = gate._plain

    def plain(name: Any) -> tuple[str, int]:
        return shown.get(name[0], real(name)[0]), only

    monkeypatch.setattr(gate, "_plain", plain)
    only = reach.endpoints[0].port if reach.endpoints else 80
    stream = socket.create_server((ANY, 0))
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 0))
    ports = stream.getsockname()[1], names.getsockname()[1]
    made = Gate(reach)
    with made.serving([stream.detach(), names.detach()]):
        yield made, *ports


def asked(port: int, data: bytes, address: str = GUESTS) -> bytes:
    """What comes back of ``data``; raises OSError when the connection is refused."""
    with socket.create_connection((address, port), 10) as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        with one.makefile("rb") as stream:
            return stream.read()


def test_a_port_of_this_host_is_reached_by_the_alias_alone(
    server: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = Reach((Endpoint("10.0.2.2", server),), note=said.append)
    shown = {GUESTS: "127.0.0.1", "127.0.18.2": "192.0.2.7"}
    with opened(reach, monkeypatch, shown) as (_gate, port, _names):
        big = bytes(range(256)) * 4000
        assert asked(port, big) == big[::-1]
        with contextlib.suppress(OSError):
            assert asked(port, b"x", "127.0.18.2") == b""
    assert said == [f"192.0.2.7 port {server}: refused"]


def test_a_name_is_reached_by_the_address_that_stands_for_it(
    server: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(self: Any, host: str, port: int, **_more: Any) -> list[Any]:
        return [(0, 0, 0, "", (found[host], port))]

    found = {"mirror.test": "127.0.0.1"}
    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", resolve)
    reach = Reach((Endpoint("mirror.test", server),), note=said.append)
    with opened(reach, monkeypatch, {GUESTS: "198.18.0.1"}) as (made, port, _names):
        assert made.names.address("mirror.test") == "198.18.0.1"
        # A name that leads to this host's loopback is no way to it.
        for address in ("127.0.0.1", "127.9.9.9", "::1", ANY, "::", "::ffff:127.0.0.1"):
            found["mirror.test"] = address
            with contextlib.suppress(OSError):
                assert asked(port, b"x") == b""
    assert said == [f"mirror.test port {server}: the name leads to this host's loopback"]


def test_the_targets_are_exactly_what_was_named() -> None:
    reach = Reach(
        (
            Endpoint("10.0.2.2", 8080),
            Endpoint("192.0.2.80", 80),
            Endpoint("2001:db8::5", 443),
            Endpoint("a.example", 80),
            Endpoint("b.example", 443),
            Endpoint("127.0.0.1", 22),
            Endpoint("127.1.2.3", 22),
            Endpoint("::1", 22),
            Endpoint("::ffff:127.0.0.1", 22),
            Endpoint(ANY, 22),
        )
    )
    assert Gate(reach).targets == {
        ("127.0.0.1", 8080): Endpoint("127.0.0.1", 8080),
        ("192.0.2.80", 80): Endpoint("192.0.2.80", 80),
        ("2001:db8::5", 443): Endpoint("2001:db8::5", 443),
        ("198.18.0.1", 80): Endpoint("a.example", 80),
        ("198.18.0.2", 443): Endpoint("b.example", 443),
    }
    assert reach.ports == [22, 53, 80, 443, 8080]
    assert Gate(Reach()).targets == {}


def test_a_guest_whose_network_is_its_own_has_this_host_at_its_gateway() -> None:
    reach = Reach((Endpoint("192.0.2.1", 80), Endpoint("10.0.2.2", 80)), alias="192.0.2.1")
    assert Gate(reach).targets == {
        ("127.0.0.1", 80): Endpoint("127.0.0.1", 80),
        ("10.0.2.2", 80): Endpoint("10.0.2.2", 80),
    }


def test_names_are_answered_by_both_ways(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    head = struct.pack(">HHHHHH", 5, 0x100, 1, 0, 0, 0)
    known = head + b"\6mirror\4test\0\0\1\0\1"
    unknown = head + b"\4evil\x1b[2J\0\0\1\0\1".replace(b"\4evil\x1b[2J", b"\x08evil\x1b[2J")
    reach = Reach((Endpoint("mirror.test", 53),), note=said.append)
    with opened(reach, monkeypatch, {GUESTS: "192.0.2.53"}) as (_gate, port, names):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            for message in (known, unknown, b"nonsense"):
                client.sendto(message, ("127.0.0.1", names))
            answers = [client.recv(512) for _ in range(2)]
        assert answers[0].endswith(bytes([198, 18, 0, 1])) and answers[1][3] & 15 == 3
        assert asked(port, struct.pack(">H", len(known)) + known)[2:] == answers[0]
        assert asked(port, b"\xff\xff" + bytes(600)) == b""
        assert asked(port, b"") == b""
    assert said == ["the name evil?[2j: refused"]


def test_no_guest_holds_more_connections_than_it_may(
    server: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 2)
    reach = Reach((Endpoint("10.0.2.2", server),), note=said.append)
    with (
        opened(reach, monkeypatch, {GUESTS: "127.0.0.1"}) as (made, port, _names),
        contextlib.ExitStack() as stack,
    ):
        held = [stack.enter_context(socket.create_connection((GUESTS, port))) for _ in range(2)]
        while made._open < 2:
            pass
        with contextlib.suppress(OSError):
            assert asked(port, b"x") == b""
        for one in held:
            one.shutdown(socket.SHUT_WR)
            with one.makefile("rb") as stream:
                stream.read()
        while made._open:
            pass
        assert asked(port, b"ab") == b"ba"
    assert said == [f"127.0.0.1 port {server}: too many connections"]


def test_a_server_that_is_not_there_ends_the_connection(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = int(closed.getsockname()[1])
    reach = Reach((Endpoint("10.0.2.2", nobody),), note=said.append)
    with (
        opened(reach, monkeypatch, {GUESTS: "127.0.0.1"}) as (_gate, port, _names),
        contextlib.suppress(OSError),
    ):
        assert asked(port, b"x") == b""
    assert len(said) == 1 and "127.0.0.1" in said[0]
