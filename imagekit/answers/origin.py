"""Which line of a template made which line of an answers file.

The template is rendered a second time with a mark before every piece of text, at every line of it
and before every expression. Where the marks change the result (a template may cut, count or encode
its own text) nothing is said at all.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from imagekit.answers.context import Context
from imagekit.answers.render import Kind, bounded, environment, read_template
from imagekit.errors import ImagekitError

# Private Use characters, which no answers file has a use for.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


def template_lines(kind: Kind, context: Context, template: Path | None, text: str) -> list[int]:
    """The template's line for each line of ``text``, its rendering; empty when it is not known.

    Both count from 1: item 0 is the first line's.
    """
    path, source = read_template(kind, template)
    if _OPEN in source or _OPEN in text:
        return []
    env = environment()
    try:
        tree = _Marker().visit(env.parse(source, path.name, str(path)))
        code = env.compile(tree, path.name, str(path))
        made = jinja2.Template.from_code(env, code, env.globals)
        marked = bounded(made, context.variables(), path, factor=16)
    except (
        ImagekitError,
        jinja2.TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ):
        return []
    if _MARK.sub("", marked).rstrip("\n") != text.rstrip("\n"):
        return []
    lines, last = [], 1
    for line in marked.split("\n"):
        found = _MARK.findall(line)
        lines.append(int(found[0]) if found else last)
        last = int(found[-1]) if found else last
    return lines


def _mark(line: int) -> str:
    return f"{_OPEN}{line}{_CLOSE}"


class _Marker(NodeTransformer):
    """Puts marks into what a template outputs."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        """Text gets a mark at each of its lines, an expression one before it."""
        found: list[nodes.Expr] = []
        for child in node.nodes:
            if isinstance(child, nodes.TemplateData):
                pieces = re.findall("[^\n]*\n|[^\n]+", child.data)
                text = "".join(_mark(child.lineno + i) + p for i, p in enumerate(pieces))
                found.append(nodes.TemplateData(text, lineno=child.lineno))
            else:
                found.append(nodes.TemplateData(_mark(child.lineno), lineno=child.lineno))
                found.append(child)
        node.nodes = found
        return node
