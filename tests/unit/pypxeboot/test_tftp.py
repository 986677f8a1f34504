"""The TFTP client against a server of our own, on loopback: honest, lossy, and lying."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.tftp_server import TftpServer

from imagekit.errors import DownloadError, ImagekitError, SpecError
from imagekit.pypxeboot import tftp
from imagekit.pypxeboot.transfer import Deadline, NotFoundError, Receiver

DATA = random.Random(3).randbytes(300_000)


def fetch(
    server: TftpServer, name: str = "f", *, limit: int = 1 << 26, seconds: float = 5, **kw: Any
) -> bytes | None:
    deadline = Deadline(seconds)
    receiver = Receiver(name, limit, deadline)
    tftp.fetch(server.address, name, receiver, deadline, port=server.port, **kw)
    return receiver.content()


@pytest.mark.parametrize("options", [(), ("blksize",), ("tsize",), ("blksize", "windowsize")])
def test_file_arrives_whatever_options_the_server_knows(
    options: tuple[()] | tuple[str, ...] | tuple[str],
) -> None:
    with TftpServer({"f": DATA[:100_000]}, options=options) as server:
        assert fetch(server) == DATA[:100_000]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 1408, 1408 * 16, 1408 * 32])
def test_sizes_around_the_block_size_end_properly(size: int) -> None:
    with TftpServer({"f": DATA[:size]}) as server:
        assert fetch(server) == DATA[:size]
    with TftpServer({"f": DATA[:size]}, options=()) as server:
        assert fetch(server) == DATA[:size]


def test_lost_packets_are_asked_for_again() -> None:
    with TftpServer({"f": DATA[:60_000]}, loss=0.1) as server:
        assert fetch(server, seconds=30) == DATA[:60_000]


def test_server_that_refuses_options_is_asked_without() -> None:
    with TftpServer({"f": DATA[:3000]}, lies={"refuse options"}) as server:
        assert fetch(server) == DATA[:3000]
        assert [asked for _, asked in server.requests][-1] == {}


def test_packets_with_a_wrong_transfer_id_are_refused_and_do_no_harm() -> None:
    with TftpServer({"f": DATA[:9000]}, lies={"stranger"}) as server:
        assert fetch(server) == DATA[:9000]
        assert server.refused_tids == 1


def test_missing_file_is_told_apart_from_other_errors() -> None:
    with TftpServer({}) as server, pytest.raises(NotFoundError):
        fetch(server)
    with TftpServer({"f": b""}, lies={"error"}) as server:
        with pytest.raises(DownloadError, match="error 2") as caught:
            fetch(server)
        assert not isinstance(caught.value, NotFoundError)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("big blksize", "blocks of 65000"),
        ("tiny blksize", "blocks of 1 "),
        ("zero window", "window of 0"),
        ("unasked", "nobody asked"),
        ("no number", "not a number"),
        ("huge tsize", "announces 999999999999 bytes"),
        ("wrong tsize", "announced 17 bytes"),
        ("oversize", "agreed were"),
        ("junk", "opcode 65535"),
    ],
)
def test_lies_are_named(lie: str, message: str) -> None:
    with TftpServer({"f": DATA}, lies={lie}) as server, pytest.raises(DownloadError, match=message):
        fetch(server)


def test_endless_file_stops_at_the_limit() -> None:
    server = TftpServer({"f": DATA}, lies={"endless"}, options=("blksize", "windowsize"))
    with server, pytest.raises(DownloadError, match="larger than the limit"):
        fetch(server, limit=500_000)


@pytest.mark.parametrize("lie", ["silence", "vanish", "drip"])
def test_slow_and_silent_servers_end_at_the_deadline(lie: str) -> None:
    # A transfer that has no end would never come back.
    with TftpServer({"f": DATA}, lies={lie}) as server, pytest.raises(DownloadError):
        fetch(server, seconds=0.4)


def test_drip_is_noticed_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagekit.pypxeboot.transfer.GRACE_SECONDS", 0.5)
    monkeypatch.setattr("imagekit.pypxeboot.transfer.LOWEST_BYTES_PER_SECOND", 1 << 20)
    server = TftpServer({"f": DATA}, lies={"drip"}, options=())
    with server, pytest.raises(DownloadError, match="drips"):
        fetch(server, seconds=60)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 500])
def test_impossible_names_are_never_sent(name: str) -> None:
    with pytest.raises(SpecError):
        tftp.request(name, tftp.Wanted())


@given(st.binary(max_size=600) | st.binary(max_size=80).map(lambda b: b"\0\x06" + b + b"\0"))
def test_parser_survives_any_packet(packet: bytes) -> None:
    try:
        parsed = tftp.parse(packet)
        if parsed.options is not None:
            agreed = tftp.agree(parsed.options, tftp.Wanted())
            assert 8 <= agreed.blksize <= 1408
            assert 1 <= agreed.windowsize <= 16
    except ImagekitError:
        pass


@given(st.integers(8, 1408), st.integers(1, 16), st.integers(0, 10**11))
def test_honest_option_acknowledgement_is_taken_as_it_is(
    blksize: int, window: int, size: int
) -> None:
    words = ["blksize", str(blksize), "TSIZE", str(size), "windowsize", str(window)]
    packet = struct.pack("!H", 6) + b"".join(word.encode() + b"\0" for word in words)
    options = tftp.parse(packet).options
    assert options is not None
    assert tftp.agree(options, tftp.Wanted()) == tftp.Agreed(blksize, window, size)
