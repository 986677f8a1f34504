"""The one way to read YAML, with bounds on what a small text can grow into, and to word values.

An alias is a node that costs a few bytes and stands for as many as its anchor has, so that a text
of a kilobyte may mean billions (YAML 1.2.2, 3.2.2.2 "Anchors and Aliases"). Whoever walks such a
document walks all of them. They are counted while the document is composed, before anything is
made of it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode

from imagekit.errors import SpecError

MAX_NODES = 20_000
"""Nodes of a file that people write; each key, value and list is one."""

MAX_DEPTH = 64
MAX_NUMBER = 512
"""Characters of a number: ruamel.yaml makes long ones in quadratic time."""

# What YAML 1.2.2 (5.1, "Character Set") or an older parser might not take as it is.
_NOT_PLAIN = re.compile(r"[^\n -~]")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def yaml_reader(typ: Literal["safe", "rt"] = "safe", *, max_nodes: int = MAX_NODES) -> YAML:
    """A ruamel.yaml whose ``load`` refuses, as a YAMLError, more than ``max_nodes`` nodes.

    Nodes are counted after every alias is replaced by what it stands for. Deeper nesting than
    MAX_DEPTH, an anchor that holds itself, numbers of more than MAX_NUMBER characters, and mappings
    and lists as keys are refused too. ``rt`` keeps comments and positions.
    """
    # The C library composes by itself and knows no bounds.
    yaml = YAML(typ=typ, pure=True)
    bounded: Any = type("Bounded", (_Bounded,), {"max_nodes": max_nodes})
    yaml.Composer = bounded
    return yaml


class _Bounded(Composer):
    """Counts nodes and levels."""

    max_nodes = MAX_NODES

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        # A warning for each would be a flood.
        self.warn_double_anchors = False
        # Of every anchor that is complete: its nodes, and its levels.
        self._anchored: dict[str, tuple[int, int]] = {}
        self._nodes = 0
        self._level = 0
        self._deepest = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See ruamel.yaml's; raises ComposerError when a bound is passed."""
        event = self.parser.peek_event()
        node = self._counted(event, parent, index)
        # Of a mapping's nodes its keys come without an index.
        if index is None and isinstance(parent, MappingNode) and not isinstance(node, ScalarNode):
            text = "a key that is a mapping or a list"
            raise ComposerError(None, None, text, event.start_mark)
        return node

    def _counted(self, event: Any, parent: Any, index: Any) -> Any:
        if isinstance(event, AliasEvent):
            self._count_alias(event)
            return super().compose_node(parent, index)
        above, self._deepest = self._deepest, self._level + 1
        before = self._nodes
        self._add(1, 1, event.start_mark)
        # An anchor that is given anew means the new one only once that is complete.
        self._anchored.pop(event.anchor, None)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, ScalarNode):
            _check_number(node)
        if event.anchor is not None:
            self._anchored[event.anchor] = (self._nodes - before, self._deepest - self._level)
        self._deepest = max(above, self._deepest)
        return node

    def _count_alias(self, event: Any) -> None:
        if event.anchor not in self._anchored:
            if event.anchor in self.anchors:
                raise ComposerError(
                    None, None, f"the anchor {event.anchor!r} holds itself", event.start_mark
                )
            return
        self._add(*self._anchored[event.anchor], event.start_mark)

    def _add(self, nodes: int, levels: int, mark: Any) -> None:
        self._nodes += nodes
        self._deepest = max(self._deepest, self._level + levels)
        if self._nodes > self.max_nodes:
            text = f"more than {self.max_nodes} keys and values, with every alias written out"
            raise ComposerError(None, None, text, mark)
        if self._deepest > MAX_DEPTH:
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)


def _check_number(node: Any) -> None:
    if len(node.value) > MAX_NUMBER and str(node.tag) in _NUMBERS:
        text = f"a number of more than {MAX_NUMBER} characters"
        raise ComposerError(None, None, text, node.start_mark)


def yaml_flow(value: Any, *, indent: int | None = None) -> str:
    """``value`` (what JSON can hold) as YAML that any parser reads, of printable ASCII alone.

    It is JSON but for characters beyond U+FFFF: JSON writes them as two halves, which YAML 1.2.2
    (5.7, "Escaped Characters") takes for two characters that do not exist, and has ``\\U`` instead.
    Raises SpecError for a lone half.
    """
    return _NOT_PLAIN.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xD800 <= code <= 0xDFFF:
        text = "half a character (a lone surrogate) cannot stand in YAML"
        raise SpecError(text, where=ascii(found[0]))
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
