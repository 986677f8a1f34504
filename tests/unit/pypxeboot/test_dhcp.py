"""DHCP messages and the exchange, with a wire made of lists."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import dhcp_server

from imagekit.errors import DownloadError, ImagekitError
from imagekit.pypxeboot import dhcp, dhcp_client
from imagekit.pypxeboot.dhcp import Lease
from imagekit.pypxeboot.dhcp_client import Policy
from imagekit.pypxeboot.transfer import Deadline

MAC = bytes.fromhex("00163e102036")
MACHINE = UUID("6f1cd2a8-3c1b-4f6e-9d55-0a4e5d2c7b10")
CLIENT = dhcp.Client(MAC, MACHINE)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dhcp_client, "RETRY_SECONDS", (0.02, 0.02, 0.03, 0.03, 0.03))
    monkeypatch.setattr(dhcp_client, "SETTLE_SECONDS", 0.02)


class ListWire:
    """A wire to servers that are functions from a request to replies."""

    def __init__(self, *servers: dhcp_server.Server) -> None:
        self.servers = servers
        self.sent: list[dhcp_server.Request] = []
        self.queue: list[bytes] = []

    def send(self, message: bytes) -> None:
        request = dhcp_server.read_request(message)
        self.sent.append(request)
        for server in self.servers:
            self.queue += server(request)

    def receive(self, seconds: float) -> bytes | None:
        if self.queue:
            return self.queue.pop(0)
        time.sleep(seconds)
        return None


def acquire(
    *servers: dhcp_server.Server, policy: Policy | None = None, seconds: float = 2.0
) -> tuple[Lease, ListWire]:
    wire = ListWire(*servers)
    lease = dhcp_client.acquire(wire, CLIENT, policy or dhcp_client.Policy(), Deadline(seconds))
    return lease, wire


def test_request_is_what_a_pxe_rom_sends() -> None:
    request = dhcp_server.read_request(dhcp.build(CLIENT, dhcp.DISCOVER, 0x01020304))
    assert (request.op, request.htype, request.hlen, request.xid) == (1, 1, 6, 0x01020304)
    assert request.flags == 0x8000
    assert request.chaddr == MAC
    assert request.options[61] == b"\x01" + MAC
    assert request.options[60] == b"PXEClient:Arch:00000:UNDI:002001"
    assert request.options[93] == b"\0\0"
    assert request.options[94] == b"\x01\x02\x01"
    assert request.options[97] == b"\0" + MACHINE.bytes_le
    assert {1, 3, 6, 12, 15, 17, 43, 66, 67, 150, 209, 210} <= set(request.options[55])


def test_lease_is_requested_from_the_server_that_offered_it() -> None:
    lease, wire = acquire(dhcp_server.honest())
    assert lease.address == "192.0.2.150"
    assert lease.boot_server == "192.0.2.1"
    assert [request.options[53][0] for request in wire.sent] == [dhcp.DISCOVER, dhcp.REQUEST]
    assert wire.sent[1].options[50] == socket.inet_aton("192.0.2.150")
    assert wire.sent[1].options[54] == socket.inet_aton("192.0.2.1")


def test_offer_only_takes_no_lease() -> None:
    _, wire = acquire(dhcp_server.honest(), policy=dhcp_client.Policy(offer_only=True))
    assert [request.options[53][0] for request in wire.sent] == [dhcp.DISCOVER]


@pytest.mark.parametrize(
    ("siaddr", "options", "expected"),
    [
        ("192.0.2.7", {}, "192.0.2.7"),
        ("192.0.2.7", {66: b"192.0.2.8"}, "192.0.2.8"),
        ("192.0.2.7", {66: b"tftp.example"}, "192.0.2.7"),
        ("192.0.2.7", {150: bytes([192, 0, 2, 9, 192, 0, 2, 10])}, "192.0.2.9"),
        ("0.0.0.0", {66: b"192.0.2.8\0"}, "192.0.2.8"),  # noqa: S104
    ],
)
def test_boot_server_by_option_66_then_150_then_siaddr(
    siaddr: str, options: dict[int, bytes], expected: str
) -> None:
    lease, _ = acquire(dhcp_server.honest(siaddr=siaddr, options=options))
    assert lease.boot_server == expected


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])  # noqa: S104
def test_impossible_boot_servers_are_none(address: str) -> None:
    with pytest.raises(DownloadError, match="no boot server"):
        acquire(dhcp_server.honest(siaddr=address))


def test_replies_for_others_and_to_other_questions_are_passed_over() -> None:
    noise = [
        dhcp_server.honest(xid=1),
        dhcp_server.honest(chaddr=bytes(6)),
        lambda _: [b"", b"x" * 999],
    ]
    lease, _ = acquire(*noise, dhcp_server.honest())
    assert lease.boot_server == "192.0.2.1"


def test_only_wrong_answers_end_in_an_error_that_says_so() -> None:
    started = time.monotonic()
    with pytest.raises(DownloadError, match="wrong xid"):
        acquire(dhcp_server.honest(xid=1))
    assert time.monotonic() - started < 30


def test_two_servers_that_contradict_each_other_are_refused() -> None:
    rogue = dhcp_server.honest(server="192.0.2.66", siaddr="192.0.2.66")
    with pytest.raises(DownloadError, match="contradict"):
        acquire(dhcp_server.honest(), rogue)


def test_named_dhcp_server_is_believed_and_a_rogue_is_not() -> None:
    rogue = dhcp_server.honest(server="192.0.2.66", siaddr="192.0.2.66")
    policy = dhcp_client.Policy(servers=("192.0.2.1",))
    lease, wire = acquire(rogue, dhcp_server.honest(), policy=policy)
    assert lease.boot_server == "192.0.2.1"
    assert wire.sent[-1].options[54] == socket.inet_aton("192.0.2.1")
    with pytest.raises(DownloadError, match=r"192\.0\.2\.66, which is not an allowed"):
        acquire(rogue, policy=policy)


def test_two_servers_of_one_mind_are_fine() -> None:
    second = dhcp_server.honest(server="192.0.2.2")
    assert acquire(dhcp_server.honest(), second)[0].boot_server == "192.0.2.1"


def test_siaddr_of_a_server_that_does_not_speak_of_booting_contradicts_nobody() -> None:
    plain = dhcp_server.honest(server="192.0.2.2", siaddr="192.0.2.2", file=b"")
    assert acquire(plain, dhcp_server.honest())[0].boot_server == "192.0.2.1"


def test_proxy_completes_an_offer_without_boot_server() -> None:
    plain = dhcp_server.honest(siaddr="0.0.0.0", file=b"")  # noqa: S104
    proxy = dhcp_server.proxy("192.0.2.33")
    lease, _ = acquire(plain, proxy)
    assert (lease.address, lease.boot_server) == ("192.0.2.150", "192.0.2.33")


def test_refusal_of_the_lease_ends() -> None:
    with pytest.raises(DownloadError, match="refusing"):
        acquire(dhcp_server.honest(nak=True))


def test_server_that_gives_another_address_than_offered_is_refused() -> None:
    with pytest.raises(DownloadError, match="offered"):
        acquire(dhcp_server.honest(acked_address="192.0.2.200"))


def test_long_options_in_pieces_and_overloaded_fields_are_joined() -> None:
    prefix = b"p" * 300 + b"/"
    reply = dhcp_server.reply(
        dhcp_server.read_request(dhcp.build(CLIENT, dhcp.DISCOVER, 9)),
        kind=dhcp.OFFER,
        options=[(52, b"\x03"), (210, prefix[:200]), (210, prefix[200:])],
        file=bytes([67, 4]) + b"nbp0" + b"\xff",
        sname=bytes([209, 5]) + b"a.cfg" + b"\xff",
    )
    lease = dhcp.lease(dhcp.parse(reply))
    assert (lease.path_prefix, lease.bootfile, lease.config_file) == (
        prefix.decode(),
        "nbp0",
        "a.cfg",
    )


@pytest.mark.parametrize(
    "tail",
    [b"", b"\x35", b"\x35\x05\x01", b"\0" * 500, b"\x43\xff" + b"x" * 20, b"\x0c\x01a" * 2000],
)
def test_options_without_an_end_are_refused(tail: bytes) -> None:
    start = dhcp.build(CLIENT, dhcp.DISCOVER, 1)[:240]
    with pytest.raises(DownloadError):
        dhcp.parse(start + tail)


def test_oversize_message_is_refused() -> None:
    with pytest.raises(DownloadError, match="limit"):
        dhcp.parse(bytes(20_000))


@pytest.mark.parametrize("value", [b"a\nb", b"\x1b[2J", b"\xff\xfe", b"a\0b"])
def test_control_characters_in_texts_make_the_lease_worthless(value: bytes) -> None:
    with pytest.raises(DownloadError):
        acquire(dhcp_server.honest(options={67: value}))


@given(st.binary(max_size=700))
def test_parser_survives_any_message(data: bytes) -> None:
    for message in (data, dhcp.build(CLIENT, 1, 1)[:240] + data):
        with contextlib.suppress(ImagekitError):
            dhcp.lease(dhcp.parse(message))


@given(st.binary(max_size=400), st.booleans())
def test_unwrap_survives_any_packet(packet: bytes, ready: bool) -> None:
    dhcp_client.unwrap(packet, checksum_ready=ready)
    dhcp_client.unwrap(b"\x45" + packet, checksum_ready=ready)


@given(st.binary(max_size=300))
def test_packet_has_the_checksums_the_rfc_asks_for(message: bytes) -> None:
    packet = dhcp_client.wrap(message)
    assert dhcp_server.ones_complement_sum(packet[:20]) == 0xFFFF
    pseudo = packet[12:20] + struct.pack("!BBH", 0, 17, 8 + len(message))
    assert dhcp_server.ones_complement_sum(pseudo + packet[20:]) == 0xFFFF
    assert dhcp_server.udp_payload(packet) == (68, 67, message)


def as_reply(message: bytes) -> bytes:
    return dhcp_server.udp_packet("192.0.2.1", 67, "255.255.255.255", 68, message)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 10_000))
def test_damaged_packet_is_dropped_and_a_whole_one_is_not(message: bytes, seed: int) -> None:
    packet = as_reply(message)
    assert dhcp_client.unwrap(packet) == message
    dice = random.Random(seed)
    broken = bytearray(packet)
    broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
    assert dhcp_client.unwrap(bytes(broken)) is None or bytes(broken[26:28]) == b"\0\0"


def test_udp_checksum_that_the_kernel_left_open_is_not_held_against_a_local_server() -> None:
    packet = bytearray(as_reply(b"hello"))
    packet[26] ^= 0x55
    assert dhcp_client.unwrap(bytes(packet)) is None
    assert dhcp_client.unwrap(bytes(packet), checksum_ready=False) == b"hello"
