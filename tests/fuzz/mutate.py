"""Changes of bytes and texts that parsers stumble over."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x1FF, 0x200, 0x7FFF, 0x8000, 0xFFFF)
LARGE = (
    *NUMBERS,
    *(0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 1 << 40),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1),
)
_FORMATS = {(1, "<"): "<B", (2, "<"): "<H", (4, "<"): "<I", (8, "<"): "<Q"} | {
    (1, ">"): ">B", (2, ">"): ">H", (4, ">"): ">I", (8, ">"): ">Q"
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A number in a binary format: byte offset, size in bytes, ``<`` or ``>``."""

    offset: int
    size: int
    order: str = "<"


def fields(order: str, *places: tuple[int, int]) -> tuple[Field, ...]:
    """Fields of one byte order, each (offset, size)."""
    return tuple(Field(offset, size, order) for offset, size in places)


def set_field(source: random.Random, data: bytearray, field: Field) -> None:
    """A special number, a small step, or one flipped bit in ``field``; nothing if it is outside."""
    if field.offset + field.size > len(data):
        return
    form = _FORMATS[field.size, field.order]
    (value,) = struct.unpack_from(form, data, field.offset)
    kind = source.randrange(4)
    if kind == 0:
        value = source.choice(LARGE)
    elif kind == 1:
        value += source.choice((-512, -8, -1, 1, 2, 8, 512))
    elif kind == 2:
        value ^= 1 << source.randrange(8 * field.size)
    else:
        value = source.choice((value * 2, value // 2, len(data), len(data) - field.offset))
    struct.pack_into(form, data, field.offset, value & (1 << 8 * field.size) - 1)


def _flip(source: random.Random, data: bytearray) -> None:
    at = source.randrange(len(data))
    data[at] ^= 1 << source.randrange(8)


def _byte(source: random.Random, data: bytearray) -> None:
    data[source.randrange(len(data))] = source.choice(NUMBERS) & 0xFF


def _number(source: random.Random, data: bytearray) -> None:
    size = source.choice((2, 4, 8))
    set_field(source, data, Field(source.randrange(len(data)), size, source.choice("<>")))


def _cut(source: random.Random, data: bytearray) -> None:
    del data[source.randrange(len(data)) :]


def _drop(source: random.Random, data: bytearray) -> None:
    at = source.randrange(len(data))
    del data[at : at + source.choice((1, 2, 4, 16, 64))]


def _double(source: random.Random, data: bytearray) -> None:
    at, length = source.randrange(len(data)), source.choice((1, 4, 16, 64, 512))
    to = source.randrange(len(data))
    data[to:to] = data[at : at + length]


def _over(source: random.Random, data: bytearray) -> None:
    at, length = source.randrange(len(data)), source.choice((1, 4, 16, 64, 512))
    to = source.randrange(len(data))
    data[to : to + length] = data[at : at + length]


def _more(source: random.Random, data: bytearray) -> None:
    data += source.choice((b"\0", b"\xff", b"\0" * 512, source.randbytes(16)))


_BYTES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(_flip, _flip, _byte, _byte, _number, _number),
    *(_cut, _drop, _double, _over, _more),
)


def binary(source: random.Random, data: bytes, known: Sequence[Field] = ()) -> bytes:
    """``data`` with one change, mostly of one of the ``known`` fields."""
    changed = bytearray(data)
    if known and source.random() < 0.75:
        set_field(source, changed, source.choice(known))
    elif changed:
        source.choice(_BYTES)(source, changed)
    else:
        changed += source.randbytes(8)
    return bytes(changed)


_CHARACTERS = " \t\n\r\"'\\`$#%;:,&|<>()[]{}!*?~=@-+./0aZ\0\x1b\x7f\x85\xa0\u2028\ufeff雪😀"


def text(source: random.Random, data: bytes, words: Sequence[str]) -> bytes:
    """``data`` with one change of its lines, words or characters; ``words`` are the grammar's."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    at = source.randrange(len(lines))
    kind = source.randrange(12)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(source.randrange(len(lines) + 1), lines[at])
    elif kind == 2:
        other = source.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] += " " + source.choice(words)
    elif kind == 4:
        lines.insert(at, " ".join(source.choices(words, k=source.randrange(1, 4))))
    elif kind == 5:
        parts = lines[at].split(" ")
        parts[source.randrange(len(parts))] = source.choice(words)
        lines[at] = " ".join(parts)
    elif kind == 6:
        lines[at] *= source.choice((2, 3, 20))
    elif kind == 7 and source.random() < 0.2:
        changed = bytearray(data) or bytearray(b"\0")
        source.choice(_BYTES)(source, changed)
        return bytes(changed)
    else:
        lines[at] = _characters(source, lines[at])
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _characters(source: random.Random, line: str) -> str:
    at = source.randrange(len(line) + 1)
    kind = source.randrange(3)
    if kind == 0:
        return line[:at] + source.choice(_CHARACTERS) + line[at:]
    if kind == 1:
        return line[:at] + line[at + source.choice((1, 1, 2, 8)) :]
    return line[:at] + source.choice(_CHARACTERS) + line[at + 1 :]


VALUES = (None, True, False, 0, -1, 1, 1 << 31, 1 << 63, 1 << 64, 1.5, 1e308, "", "0", "a/../b")
ODD: tuple[Any, ...] = (
    "/x",
    "\0",
    "\ud800",
    "é" * 300,
    [],
    {},
    [[]],
    {"": None},
    ["a"] * 40,
    "x" * 5000,
)


def tree(source: random.Random, data: bytes) -> bytes:
    """JSON with one value somewhere in it replaced, left out, doubled or moved; ``data`` if it is
    none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    top = [value]
    holder: Any = top
    key: Any = 0
    while True:
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or source.random() < 0.15:
            break
        holder = inner
        key = source.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    kind = source.randrange(6)
    if kind == 0 and holder is not top:
        del holder[key]
    elif kind == 1:
        holder[key] = source.choice(ODD)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 3 and isinstance(holder, dict):
        holder[source.choice(("x", "", str(key) + "x", *holder))] = holder.pop(key)
    elif kind == 4 and isinstance(holder[key], str):
        holder[key] = _characters(source, holder[key])
    else:
        holder[key] = source.choice(VALUES)
    return json.dumps(top[0]).encode()
