"""A tree of the host served without a process of its own, for tests that look at many trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imagekit.errors import GuestError
from imagekit.guest.backends import tree_child
from imagekit.guest.backends.tree import TreeFiles


class LocalTree(TreeFiles):
    """:class:`TreeFiles` whose child's code runs here."""

    def __init__(self, root: Path) -> None:
        self._tree = tree_child.Tree(str(root))

    def _call(
        self, call: str, path: str, data: bytes | None = None, **more: int | str
    ) -> tuple[Any, bytes]:
        given = {} if data is None else {"data": data}
        try:
            value = getattr(self._tree, call)(path=path, **given, **more)
        except (OSError, tree_child.TreeError) as error:
            raise GuestError(f"{call}: {error}", where=path) from None
        return (None, value) if isinstance(value, bytes) else (value, b"")
