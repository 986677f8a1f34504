"""Quoting for answer files: each filter makes a value safe in its format, or refuses it.

Sources: debconf-set-selections(1) and the shell script of that name in debian-installer (one line
per answer, a backslash at the end continues it), pykickstart's parser.py (shlex words, a "%" in the
first column starts a section), POSIX shell quoting, YAML 1.2.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable
from typing import Any

from imagekit.errors import SpecError
from imagekit.spec.yamltext import yaml_flow

_WORD = re.compile(r"[A-Za-z0-9_.:@%+=/,-]+")


def one_line(value: object) -> str:
    """``value`` as text without control characters or line separators, else SpecError."""
    text = str(value)
    if any(not c.isprintable() for c in text):
        raise SpecError("a control character cannot stand in an answers file", where=repr(text))
    return text


def preseed(value: object) -> str:
    """A debconf value: the rest of one line, kept as it is."""
    text = one_line(value)
    if text != text.strip():
        raise SpecError("debconf drops blanks around a value", where=repr(text))
    if text.endswith("\\"):
        raise SpecError("a backslash at the end continues the line", where=repr(text))
    return text


def kickstart(value: object) -> str:
    """One word of a kickstart command: quoted as shlex reads it."""
    return shlex.quote(one_line(value))


def plain_word(value: object) -> str:
    """A word that needs no quoting in any of the formats (package and module names, sizes)."""
    text = str(value)
    if not _WORD.fullmatch(text) or text.startswith(("-", "@", "%")):
        raise SpecError(
            "only letters, digits and _ . : @ % + = / , - may stand here", where=repr(text)
        )
    return text


def shell(value: object) -> str:
    """One word of a POSIX shell command."""
    return shlex.quote(one_line(value))


def encoded(value: object) -> str:
    """Base64 of any text: for files that a shell line writes with ``base64 -d``."""
    return base64.b64encode(str(value).encode()).decode()


def yaml(value: Any) -> str:
    """A YAML flow value."""
    return yaml_flow(value)


FILTERS: dict[str, Callable[[Any], str]] = {
    "preseed": preseed,
    "kickstart": kickstart,
    "word": plain_word,
    "sh": shell,
    "base64": encoded,
    "yaml": yaml,
}
"""The filters of answers templates, by name."""
