"""Pan, Quattor's language: values as its compiler reads them.

A string in single quotes is taken as it is, a quote in it being doubled. Source: the Pan language
specification ("Literals", "Paths") and quattor/pan's ``TermFactory``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagekit.domain.text import one_line, refuse

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_+.-]*")


@dataclass(frozen=True)
class Create:
    """``create('structure/template', key, value, ...)``."""

    template: str
    values: Mapping[str, Value]


Value = str | bool | int | Sequence["Value"] | Mapping[str, "Value"] | Create


def key(text: str, where: str) -> str:
    """A key that needs no escaping in a path; raises SpecError for others.

    A component that writes a file by the key's name would write the escaped one.
    """
    if _KEY.fullmatch(text) is None:
        refuse(
            f"{text!r} cannot be a name in a Pan path",
            where,
            "a letter or _, then letters, digits and _ + . -",
        )
    return text


def string(text: str, where: str) -> str:
    """``text`` in single quotes; raises SpecError for control characters."""
    one_line(text, where)
    return "'" + text.replace("'", "''") + "'"


def literal(value: Value, where: str) -> str:
    """A string, number, truth value, list, nlist or ``create()`` as Pan source."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return string(value, where)
    if isinstance(value, Create):
        return f"create({', '.join([string(value.template, where), *_pairs(value.values, where)])})"
    if isinstance(value, Mapping):
        return f"nlist({', '.join(_pairs(value, where))})"
    return f"list({', '.join(literal(item, where) for item in value)})"


def _pairs(values: Mapping[str, Value], where: str) -> list[str]:
    words = []
    for name, value in values.items():
        words += [string(key(name, where), where), literal(value, where)]
    return words


def assign(path: str, value: Value, where: str) -> str:
    """``'path' = value;``. The path's parts went through :func:`key`."""
    return f"{string(path, where)} = {literal(value, where)};"
