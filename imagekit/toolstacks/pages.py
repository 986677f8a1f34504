"""The heads of ``docs/toolstacks/*.md``: what a toolstack says of itself, over what people wrote.

``python -m imagekit.toolstacks.pages`` writes them anew, in the repository it is run in.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from imagekit.toolstacks.declaration import NETBOOT_WORDS, Toolstack
from imagekit.toolstacks.registry import toolstacks

BEGIN = "<!-- python -m imagekit.toolstacks.pages writes this -->\n"
END = "<!-- and what follows is written by hand -->\n"


def head(found: Toolstack[Any]) -> str:
    """The head of the page of ``found``, with the comments around it."""
    rows = [("gives", found.gives)]
    rows.append(("file of a build", f"`NAME.MODE.{found.suffix}`" if found.built else "none"))
    rows.append(("more", ", ".join(f"`{flag}`" for flag in found.deliveries) or "none"))
    netboots = NETBOOT_WORDS[found.netboots] if found.netboots else "no"
    rows.append(("netboots PV", netboots))
    rows.append(("MAC addresses", found.other_macs(found.options()) or "the spec's"))
    facts = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return f"{BEGIN}| `--toolstack` | `{found.name}` |\n|---|---|\n{facts}{_options(found)}{END}"


def with_head(text: str, found: Toolstack[Any]) -> str:
    """The page ``text`` with its head as it should be; raises ValueError if it has no head."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{found.page} has no head")
    return before + head(found) + after


def _options(found: Toolstack[Any]) -> str:
    if not found.option_names:
        return ""
    hints = get_type_hints(found.options)
    rows = "".join(
        f"| `{field.name}` | {_values(hints[field.name])} | {_default(field.default)} |\n"
        for field in fields(found.options)
    )
    said = inspect.cleandoc(found.options.__doc__ or "").replace("``", "`")
    return f"\n| `--option` | values | default |\n|---|---|---|\n{rows}\n{said}\n"


def _values(kind: Any) -> str:
    """The values that :mod:`imagekit.toolstacks.options` takes for a field of the type ``kind``."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple:
        return f"{_values(get_args(kind)[0])}, with commas between them"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    return "`true`, `false`" if kind is bool else "text"


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _main() -> None:
    for found in toolstacks():
        page = Path(found.page)
        page.write_text(with_head(page.read_text(), found))


if __name__ == "__main__":
    _main()
