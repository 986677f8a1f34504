"""The table of all toolstacks in ``docs/toolstacks.md``, and the options the help tells of.

``python -m imagekit.toolstacks.overview`` prints the table.
"""

from __future__ import annotations

from typing import Any

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.registry import toolstacks

HEAD = """\
| toolstack | gives | file of a build | `--option` | netboots PV | more |
|---|---|---|---|---|---|
"""


def option_keys() -> str:
    """The keys of ``--option`` by toolstack, as in ``xapi handlers; glance target, names``."""
    return "; ".join(
        f"{found.name} {', '.join(found.option_names)}"
        for found in toolstacks()
        if found.option_names
    )


def table() -> str:
    """All toolstacks as a Markdown table, with links as a page in ``docs`` has them."""
    return HEAD + "".join(_row(found) for found in toolstacks())


def _row(found: Toolstack[Any]) -> str:
    cells = [
        f"[{found.name}]({found.page.removeprefix('docs/')})",
        found.gives,
        f"`NAME.MODE.{found.suffix}`" if found.built else "none",
        _code(found.option_names),
        "yes" if found.netboots else "no",
        _code(found.deliveries),
    ]
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


def _code(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    print(table(), end="")
