"""A tokenizer of xl.cfg after ``tools/libs/util/libxlu_cfg_l.l`` of Xen, strict where xl is lax."""

from __future__ import annotations

import re

Value = str | int | list[str | int]

_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<name>[a-z][._0-9a-z]*)
      | (?P<number>[0-9][0-9a-fx]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<sign>[=\[\],])""",
    re.X,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def read(text: str) -> dict[str, Value]:
    """The settings in ``text``; a repeated key or anything out of the grammar is an error."""
    tokens = [t for t in _tokens(text) if t[0] != "blank"]
    settings: dict[str, Value] = {}
    position = 0
    while position < len(tokens):
        if tokens[position][0] == "newline":
            position += 1
            continue
        (kind, name), sign = tokens[position], tokens[position + 1]
        assert kind == "name" and sign == ("sign", "="), tokens[position : position + 2]
        assert name not in settings
        settings[name], position = _value(tokens, position + 2)
        assert tokens[position][0] == "newline"
    return settings


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None and match.lastgroup is not None, text[position : position + 40]
        found.append((match.lastgroup, match[0]))
        position = match.end()
    return found


def _value(tokens: list[tuple[str, str]], position: int) -> tuple[Value, int]:
    if tokens[position] != ("sign", "["):
        return _atom(tokens[position]), position + 1
    items: list[str | int] = []
    position += 1
    while True:
        while tokens[position][0] == "newline":
            position += 1
        if tokens[position] == ("sign", "]"):
            return items, position + 1
        items.append(_atom(tokens[position]))
        position += 1
        while tokens[position][0] == "newline":
            position += 1
        if tokens[position] == ("sign", ","):
            position += 1
        else:
            assert tokens[position] == ("sign", "]"), tokens[position]


def _atom(token: tuple[str, str]) -> str | int:
    kind, text = token
    if kind == "number":
        assert text == "0" or not text.startswith("0"), "octal or hexadecimal"
        return int(text)
    assert kind == "string", token

    def unescape(match: re.Match[str]) -> str:
        assert match[1] in {*_ESCAPES, "\\", '"', "'"}, "xl refuses or drops this escape"
        return _ESCAPES.get(match[1], match[1])

    return re.sub(r"\\(.)", unescape, text[1:-1])
