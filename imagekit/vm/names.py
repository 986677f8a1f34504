"""Answers a guest's questions for names: those that it may reach have an address, no other has.

Sources: RFC 1035 section 4 (messages); RFC 2544 (198.18.0.0/15 is in no real network), RFC 4193
(a prefix of our own, made of the letters "image").
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

_HEADER = struct.Struct(">HHHHHH")
_A, _AAAA, _IN = 1, 28, 1
_ANSWER, _RECURSION = 0x8000, 0x0180
_NO_SUCH_NAME = 3
_SECONDS = 60
_FIRST = {4: ipaddress.ip_address("198.18.0.1"), 6: ipaddress.ip_address("fd69:6d61:6765::1")}
MAX_QUESTION = 512


class Names:
    """Addresses that stand for ``names`` in a network of one guest, of IP version 4 or 6."""

    def __init__(self, names: Sequence[str], version: int = 4) -> None:
        self._version = version
        first = _FIRST[version]
        plain = dict.fromkeys(_plain(name) for name in names)
        self._addresses = {name: first + n for n, name in enumerate(plain)}

    def address(self, name: str) -> str:
        """What stands for ``name``, which must be one of them."""
        return str(self._addresses[_plain(name)])

    def answer(self, message: bytes) -> tuple[bytes, str] | None:
        """The answer to a DNS ``message``, and the name that has none; None if it is no question.

        The name is empty where there is an answer.
        """
        question = _question(message)
        if question is None:
            return None
        ident, flags, end, name, kind = question
        known = self._addresses.get(name)
        given = b""
        if known is not None and kind == {4: _A, 6: _AAAA}[self._version]:
            data = known.packed
            given = struct.pack(">HHHIH", 0xC00C, kind, _IN, _SECONDS, len(data)) + data
        code = 0 if known is not None else _NO_SUCH_NAME
        reply = _ANSWER | _RECURSION | (flags & 0x0100) | code
        header = _HEADER.pack(ident, reply, 1, 1 if given else 0, 0, 0)
        return header + message[_HEADER.size : end] + given, "" if known is not None else name


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


def _question(message: bytes) -> tuple[int, int, int, str, int] | None:
    """Id, flags, end of the question, name and type; None for anything but one plain question."""
    if not _HEADER.size < len(message) <= MAX_QUESTION:
        return None
    ident, flags, count, *_rest = _HEADER.unpack_from(message)
    if flags & 0xF800 or count != 1:
        return None
    labels: list[str] = []
    place = _HEADER.size
    while place < len(message) and message[place]:
        length = message[place]
        if length > 63 or place + 1 + length >= len(message):
            return None
        labels.append(message[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    if place + 5 > len(message):
        return None
    kind, category = struct.unpack_from(">HH", message, place + 1)
    name = ".".join(labels).lower()
    return (ident, flags, place + 5, name, kind) if category == _IN else None
