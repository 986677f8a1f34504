"""Checks of single values that every domain field goes through; all raise SpecError."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from imagekit.errors import SpecError
from imagekit.spec.nearest import did_you_mean

MAX_TEXT_BYTES = 4096
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def refuse(what: str, where: str, hint: str | None = None) -> NoReturn:
    """Raise SpecError."""
    raise SpecError(what, where=where, hint=hint)


def one_line(value: str, where: str, *, tab: bool = False) -> None:
    """Text without control characters, line ends, lone surrogates or XML's non-characters.

    Those break some config format each (xl's lexer, Python source, XML 1.0 section 2.2), and an
    escape that one reader understands is dropped by another. A tab passes with ``tab``.
    """
    if not isinstance(value, str):
        refuse(f"{value!r} is not text", where)
    found = _CONTROL.search(value)
    character = found[0] if found else "\t" if "\t" in value and not tab else None
    if character is not None:
        refuse(f"holds the character U+{ord(character):04X}, which no config can carry", where)
    if any(ord(c) & 0xFFFE == 0xFFFE for c in value):
        refuse("holds a Unicode non-character", where)
    if len(value.encode()) > MAX_TEXT_BYTES:
        refuse(f"is longer than {MAX_TEXT_BYTES} bytes", where)


def absolute_path(value: str, where: str) -> None:
    """An absolute path as dom0 spells it: no control characters, no ``..``, no blank at the end."""
    one_line(value, where)
    if not value.startswith("/") or value == "/":
        refuse(f"{value!r} is not an absolute path of a file", where)
    if ".." in value.split("/"):
        refuse(f'the path {value!r} contains ".."', where)
    if value != value.rstrip():
        refuse(f"{value!r} ends in a blank", where)


def number(value: int, low: int, high: int, where: str) -> None:
    """A whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(f"{value!r} is not a whole number", where)
    if not low <= value <= high:
        refuse(f"{value} is not from {low} to {high}", where)


def choice(value: str, allowed: Sequence[str], where: str) -> None:
    """One of ``allowed``."""
    if value not in allowed:
        meant = did_you_mean(str(value), allowed)
        refuse(f"{value!r} is not known{meant}", where, f"one of {', '.join(allowed)}")
