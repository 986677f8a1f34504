"""Long fuzzing of everything pypxeboot reads from the network.

``IMAGEKIT_FUZZ_CASES`` is the number of cases in all; each parser gets its share. A case may
only return or raise an ImagekitError, quickly and with bounded memory.
"""

from __future__ import annotations

import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.errors import ImagekitError
from imagekit.pypxeboot import dhcp, dhcp_client, ipxe, location, pxelinux, session, tftp
from imagekit.pypxeboot.entry import LocalBoot

PARSERS = 7
CASES = max(1, int(os.environ.get("IMAGEKIT_FUZZ_CASES", "700")) // PARSERS)
SLOWEST_SECONDS = 2.0
MOST_GROWTH_KIB = 256 << 10

long_run = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def memory_is_watched() -> Iterator[Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_GROWTH_KIB


T = TypeVar("T")


def judged(action: Callable[[], T]) -> T | None:
    """Run ``action``; only an ImagekitError may escape it, and it may not be slow."""
    started = time.monotonic()
    try:
        return action()
    except ImagekitError as error:
        assert error.what
        return None
    finally:
        assert time.monotonic() - started < SLOWEST_SECONDS


HEAD = dhcp.build(dhcp.Client(bytes.fromhex("00163e102036")), dhcp.OFFER, 7)[:240]
CODES = st.sampled_from([0, 1, 3, 12, 52, 53, 54, 60, 66, 67, 150, 209, 210, 255]) | st.integers(
    0, 255
)
OPTION = st.builds(
    lambda code, length, body: bytes([code, length if length is not None else len(body)]) + body,
    CODES,
    st.none() | st.integers(0, 255),
    st.binary(max_size=20),
)
DHCP = st.builds(
    lambda head, cut, parts, tail: (bytes(head) + b"".join(parts) + tail)[: cut or None],
    st.just(HEAD) | st.binary(max_size=260).map(lambda b: b + HEAD[len(b) :]),
    st.integers(0, 400),
    st.lists(OPTION, max_size=12),
    st.sampled_from([b"\xff", b""]),
)


@long_run
@given(DHCP)
def test_fuzz_dhcp(message: bytes) -> None:
    judged(lambda: dhcp.lease(dhcp.parse(message)))


@long_run
@given(st.binary(max_size=120), st.integers(0, 0xFFFF), st.booleans())
def test_fuzz_packets(body: bytes, port: int, ready: bool) -> None:
    head = struct.pack("!BBHHHBBH8s", 0x45, 0, 28 + len(body), 0, 0, 64, 17, port, bytes(8))
    packet = head + struct.pack("!HHHH", 67, 68, 8 + len(body), port) + body
    judged(lambda: dhcp_client.unwrap(packet, checksum_ready=ready))
    judged(lambda: dhcp_client.unwrap(body, checksum_ready=ready))


WORD = st.sampled_from(
    [b"blksize", b"tsize", b"windowsize", b"1408", b"0", b"-1", b"9" * 30]
) | st.binary(max_size=12)
OACK = st.lists(WORD, max_size=20).map(lambda words: b"\0\6" + b"".join(w + b"\0" for w in words))


@long_run
@given(st.binary(max_size=80) | OACK)
def test_fuzz_tftp(packet: bytes) -> None:
    def action() -> None:
        parsed = tftp.parse(packet)
        if parsed.options is not None:
            tftp.agree(parsed.options, tftp.Wanted())

    judged(action)


KEYWORDS = st.sampled_from(
    [
        "label",
        "default",
        "append",
        "initrd",
        "kernel",
        "linux",
        "localboot",
        "ipappend",
        "include",
        "menu",
        "ui",
        "text",
        "help",
        "endtext",
        "ontimeout",
        "sysappend",
        "com32",
        "initrd=a,b",
        "chain.c32",
        "menu.c32",
        "-",
        "#",
        "0",
        "2",
        "0x7",
    ]
)
LINES = st.lists(
    st.lists(KEYWORDS | st.text(max_size=8), max_size=5).map(" ".join), max_size=15
).map("\n".join)


@long_run
@given(LINES | st.text(max_size=300))
def test_fuzz_pxelinux(text: str) -> None:
    found = judged(lambda: pxelinux.choose(pxelinux.parse(text, lambda _: text)))
    if found is not None and not isinstance(found, LocalBoot):
        assert not any(word.startswith("initrd=") for word in found.args.split())


COMMANDS = st.sampled_from(
    [
        "set",
        "kernel",
        "initrd",
        "imgargs",
        "boot",
        "chain",
        "exit",
        "sanboot",
        "${mac}",
        "${net0/ip:hexhyp}",
        "${",
        "}",
        "${x}",
        "\\",
        "--name",
        "-n",
        "a",
        "b",
        "||",
        "clear",
        "imgfree",
        "${a}${a}",
        "--drive",
        "0x80",
    ]
)
SCRIPTS = st.lists(
    st.lists(COMMANDS | st.text(max_size=8), max_size=6).map(" ".join), max_size=15
).map(lambda lines: "#!ipxe\n" + "\n".join(lines))
SETTINGS = ipxe.machine_settings(mac=bytes.fromhex("00163e102036"), address="192.0.2.5")


@long_run
@given(SCRIPTS | st.text(max_size=200))
def test_fuzz_ipxe(text: str) -> None:
    judged(lambda: ipxe.run(text, SETTINGS, lambda _: text, where="fuzz"))


NAMES = st.text("a/.:%?#@[]\\ \0\x7f-1", max_size=30) | st.text(max_size=20)


@long_run
@given(NAMES, st.sampled_from(["", "a/", "/a/b", "http://h/x/", "https://h"]), st.booleans())
def test_fuzz_names(name: str, prefix: str, as_url: bool) -> None:
    def action() -> str:
        place = location.server_root("h", prefix).resolve(f"http://{name}" if as_url else name)
        assert ".." not in place.path.split("/")
        assert place.scheme in location.SCHEMES
        return place.url

    judged(action)


@long_run
@given(st.binary(max_size=600) | st.binary(max_size=60).map(lambda b: b"\x1f\x8b\x08" + b))
def test_fuzz_kernel_check(data: bytes) -> None:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        judged(lambda: session.check_kernel(fd, "fuzz"))
    finally:
        os.close(fd)
