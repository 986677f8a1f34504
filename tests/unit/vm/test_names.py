"""Names that a guest asks for: what it may reach has an address, nothing else has."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.vm.names import MAX_QUESTION, Names


def question(
    name: str, kind: int = 1, ident: int = 7, flags: int = 0x100, more: bytes = b""
) -> bytes:
    """A query as a resolver sends it (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    head = struct.pack(">HHHHHH", ident, flags, 1, 0, 0, 1 if more else 0)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1) + more


def answered(names: Names, message: bytes) -> tuple[int, int, bytes, str]:
    """Id, response code, address (if any) and unknown name, as a resolver reads the answer."""
    found = names.answer(message)
    assert found is not None
    data, unknown = found
    ident, flags, questions, answers, authority, additional = struct.unpack_from(">HHHHHH", data)
    assert flags & 0x8000 and (questions, authority, additional) == (1, 0, 0)
    end = data.index(b"\0", 12) + 5
    assert data[12:end] == message[12:end]
    if not answers:
        assert len(data) == end
        return ident, flags & 15, b"", unknown
    pointer, _kind, _class, seconds, length = struct.unpack_from(">HHHIH", data, end)
    assert pointer == 0xC00C and seconds > 0 and length == len(data) - end - 12
    return ident, flags & 15, data[end + 12 :], unknown


def test_names_have_addresses_that_no_real_network_has() -> None:
    names = Names(["mirror.example.net", "proxy", "mirror.example.net."])
    assert names.address("Mirror.Example.NET") == "198.18.0.1"
    assert names.address("proxy.") == "198.18.0.2"
    assert answered(names, question("MIRROR.example.net"))[2] == bytes([198, 18, 0, 1])
    assert answered(names, question("proxy", ident=99)) == (99, 0, bytes([198, 18, 0, 2]), "")
    edns = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
    assert answered(names, question("proxy", more=edns))[2] == bytes([198, 18, 0, 2])


def test_a_known_name_has_no_other_records_and_an_unknown_one_none() -> None:
    names = Names(["mirror.example.net"])
    for kind in (28, 15, 16, 255):
        assert answered(names, question("mirror.example.net", kind)) == (7, 0, b"", "")
    for name in ("example.net", "x.mirror.example.net", "mirror.example.net.evil", "localhost", ""):
        assert answered(names, question(name)) == (7, 3, b"", name)


def test_a_guest_with_ipv6_alone_gets_addresses_of_that() -> None:
    names = Names(["mirror"], 6)
    assert answered(names, question("mirror", 28))[2].hex() == "fd696d61676500000000000000000001"
    assert answered(names, question("mirror", 1)) == (7, 0, b"", "")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 12,
        question("proxy")[:-1],
        question("proxy", flags=0x8100),  # an answer
        question("proxy", flags=0x2800),  # an update
        struct.pack(">HHHHHH", 1, 0, 2, 0, 0, 0) + question("proxy")[12:] * 2,
        struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # a name that names itself
        question("proxy")[:-2] + b"\0\3",  # CHAOS
        question("x" * 63) + b"\0" * MAX_QUESTION,
    ],
)
def test_what_is_no_plain_question_has_no_answer(message: bytes) -> None:
    assert Names(["proxy"]).answer(message) is None


@given(st.binary(max_size=600))
def test_nonsense_is_answered_with_nothing_known_or_not_at_all(data: bytes) -> None:
    found = Names(["proxy"]).answer(data)
    assert found is None or len(found[0]) <= len(data) + 16


@given(st.binary(max_size=200), st.integers(0, 20))
def test_a_changed_question_never_becomes_an_error(data: bytes, place: int) -> None:
    whole = question("proxy")
    Names(["proxy"]).answer(whole[:place] + data + whole[place:])
