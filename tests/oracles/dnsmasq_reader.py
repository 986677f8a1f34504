"""Reads a dnsmasq config file as dnsmasq 2.90 does (``read_file`` in src/option.c).

Knows nothing of imagekit. Options are given back as they reach dnsmasq's own handlers, after
quotes, comments and blanks; ``tftp-root`` is further split at its comma.
"""

from __future__ import annotations

SPACE = " \t\n\v\f\r"


def read(data: bytes) -> list[tuple[str, str]]:
    """Names and values of all lines, in order; bytes that are no UTF-8 are surrogate escapes."""
    found = []
    # fgets() ends a line at the newline, and the C string at a NUL.
    for line in data.split(b"\n"):
        text = _line(line.split(b"\0", 1)[0].decode("latin-1"))
        if text:
            name, equals, value = text.partition("=")
            value = value.lstrip(" ") if equals else ""
            found.append((_utf8(name.rstrip(" ")), _utf8(value)))
    return found


def tftp_roots(data: bytes) -> list[str]:
    """The directories of ``tftp-root``; what follows a comma is an interface."""
    return [value.split(",")[0].rstrip(" ") for name, value in read(data) if name == "tftp-root"]


def _utf8(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _line(text: str) -> str:
    out: list[str] = []
    white, at = True, 0
    while at < len(text):
        char = text[at]
        if char == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                if text[at] == "\\" and text[at + 1 : at + 2] in tuple('"tnebr\\'):
                    at += 1
                out.append(text[at])
                at += 1
            white = False
        elif char in SPACE:
            out.append(" ")
            white = True
        elif white and char == "#":
            break
        else:
            out.append(char)
            white = False
        at += 1
    return "".join(out).strip(" ")
