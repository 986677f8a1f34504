"""Where in a spec something stands: file, line and column, or the ``--set`` it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.error import YAMLError

from imagekit.errors import SpecError
from imagekit.spec.faults import faults
from imagekit.spec.shape import Loc, place_of
from imagekit.spec.yamltext import yaml_reader

# A plain scalar (YAML 1.2.2, 7.3.3) as numbers and truth values are written.
_SCALAR = re.compile(r"[^\s,\[\]{}#\"']+")


@dataclass(frozen=True)
class Document:
    """A parsed spec of the file ``path``, with its text, and what ``--set`` put into it.

    ``tree`` is ruamel.yaml's, with positions. ``overrides`` has the keys of ``--set`` by the place
    of the topmost value that each made, ``written`` their values as text by their own places.
    """

    path: Path
    tree: Any
    text: str = ""
    overrides: Mapping[Loc, str] = field(default_factory=dict)
    written: Mapping[Loc, str] = field(default_factory=dict)

    def where(self, loc: Loc) -> str:
        """``file:line:column field``, or ``--set field``."""
        shown = place_of(loc)
        key = self._override(loc)
        if key is not None:
            return f"--set {key}" if shown in ("", _spelled(key)) else f"--set {key} ({shown})"
        line, column = self.position(loc)
        return f"{self.path}:{line + 1}:{column + 1} {shown}".rstrip()

    def _override(self, loc: Loc) -> str | None:
        for length in range(len(loc), 0, -1):
            if (key := self.overrides.get(loc[:length])) is not None:
                return key
        return None

    def scalars(self) -> dict[Loc, str]:
        """Numbers and truth values as the file has them, such as ``0644``, by their places."""
        found: dict[Loc, str] = {}
        self._collect(self.tree, (), found, self.text.splitlines())
        return {**found, **self.written}

    def _collect(self, node: Any, loc: Loc, found: dict[Loc, str], lines: list[str]) -> None:
        if isinstance(node, dict):
            items = list(node.items())
        elif isinstance(node, list):
            items = list(enumerate(node))
        else:
            return
        positions = getattr(getattr(node, "lc", None), "data", None) or {}
        for key, value in items:
            below = (*loc, key if isinstance(key, int) and isinstance(node, list) else str(key))
            if isinstance(value, int | float):
                at = positions.get(key, ())[-2:]
                if len(at) == 2 and at[0] < len(lines) and below not in self.overrides:
                    match = _SCALAR.match(lines[at[0]], at[1])
                    if match:
                        found[below] = match[0]
            else:
                self._collect(value, below, found, lines)

    def position(self, loc: Loc) -> tuple[int, int]:
        """Line and column from 0 of the nearest that the file has; (-1, 0) for an override's."""
        if self._override(loc) is not None:
            return -1, 0
        found = (0, 0)
        node = self.tree
        for part in loc:
            positions = getattr(getattr(node, "lc", None), "data", None) or {}
            if part in positions:
                found = positions[part][0], positions[part][1]
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return found


def refused_in(
    error: ValidationError, shape: Any, path: Path, text: str, *, above: Loc = (), nodes: int
) -> SpecError:
    """What is wrong with the YAML ``text`` of the file ``path``, with the line of the first fault.

    ``error`` is about the part of the type ``shape`` at ``above``; ``nodes`` bounds what is read.
    """
    try:
        document = Document(path, yaml_reader("rt", max_nodes=nodes).load(text), text)
        scalars = document.scalars()
    except (YAMLError, ValueError, RecursionError):
        document, scalars = Document(path, None), {}
    below = {loc[len(above) :]: raw for loc, raw in scalars.items() if loc[: len(above)] == above}
    first = faults(error, shape, below)[0]
    return SpecError(first.what, where=document.where((*above, *first.loc)), hint=first.hint)


def _spelled(key: str) -> str:
    return re.sub(r"\.([0-9]+)(?=\.|$)", r"[\1]", key)
