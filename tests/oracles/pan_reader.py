"""Pan templates as its compiler reads them: a tokenizer, and the tree the assignments make.

Strings: ``'...'`` raw with ``''`` for a quote, ``"..."`` with backslash escapes (Pan language
specification, "Literals").
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\n]+|\#[^\n]*)
      | (?P<single>'(?:[^'\n]|'')*')
      | (?P<double>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?[0-9]+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_/+.-]*)
      | (?P<sign>[=;,(){}])""",
    re.X,
)
_TERM = re.compile(r"[A-Za-z_][A-Za-z0-9_+.-]*")


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match is not None and match.lastgroup, text[position : position + 60]
            if match.lastgroup != "blank":
                self.tokens.append((match.lastgroup, match[0]))
            position = match.end()
        self.at = 0

    def next(self) -> tuple[str, str]:
        self.at += 1
        return self.tokens[self.at - 1]

    def need(self, *texts: str) -> None:
        for text in texts:
            assert self.next()[1] == text, (text, self.tokens[self.at - 1])

    def string(self) -> str:
        kind, text = self.next()
        if kind == "single":
            return text[1:-1].replace("''", "'")
        assert kind == "double", text
        return re.sub(r"\\(.)", r"\1", text[1:-1])

    def value(self) -> Any:
        kind, text = self.tokens[self.at]
        if kind in ("single", "double"):
            return self.string()
        self.at += 1
        if kind == "number":
            return int(text)
        if text in ("true", "false"):
            return text == "true"
        self.need("(")
        items = []
        while self.tokens[self.at] != ("sign", ")"):
            items.append(self.value())
            if self.tokens[self.at] == ("sign", ","):
                self.at += 1
        self.need(")")
        if text == "list":
            return items
        if text == "create":
            return {"create": items[0], **dict(zip(items[1::2], items[2::2], strict=True))}
        assert text == "nlist"
        assert all(_TERM.fullmatch(name) for name in items[::2])
        assert len(set(items[::2])) == len(items) // 2
        return dict(zip(items[::2], items[1::2], strict=True))


def read(text: str) -> tuple[str, dict[str, Any]]:
    """The template's declaration, and the tree of its assignments."""
    reader = _Reader(text)
    words = []
    while reader.tokens[reader.at] != ("sign", ";"):
        words.append(reader.next()[1])
    reader.need(";")
    tree: dict[str, Any] = {}
    while reader.at < len(reader.tokens):
        if reader.tokens[reader.at] == ("word", "include"):
            reader.need("include", "{")
            reader.string()
            reader.need("}", ";")
            continue
        path = reader.string().strip("/").split("/")
        assert all(_TERM.fullmatch(term) for term in path), path
        reader.need("=")
        branch = tree
        for term in path[:-1]:
            branch = branch.setdefault(term, {})
        assert path[-1] not in branch
        branch[path[-1]] = reader.value()
        reader.need(";")
    return " ".join(words), tree
