"""Every toolstack imagekit can word a domain for, by name.

The line of each is in :mod:`imagekit.spec.toolstack_names`; what it names is imported when it is
asked for. Toolstacks import neither each other nor this module.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from imagekit.errors import SpecError
from imagekit.spec import toolstack_names
from imagekit.spec.nearest import did_you_mean
from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.output import Emitter


def toolstack(name: str) -> Toolstack[Any]:
    """The toolstack ``name``; raises SpecError naming those there are."""
    place = toolstack_names.declared_at(name)
    if place is None:
        meant = did_you_mean(name, toolstack_names.toolstack_names())
        raise SpecError(
            f"there is no toolstack {name!r}{meant}",
            where="toolstack",
            hint=f"one of {', '.join(toolstack_names.toolstack_names())}",
        )
    return _loaded(name, place)


def toolstacks() -> tuple[Toolstack[Any], ...]:
    """All toolstacks, in the order in which they are shown."""
    return tuple(toolstack(name) for name in toolstack_names.toolstack_names())


def modules_of(names: Iterable[str]) -> tuple[str, ...]:
    """The modules that declare the toolstacks ``names``, for keys of what they word."""
    return tuple(
        place.partition(":")[0] for n in names if (place := toolstack_names.declared_at(n))
    )


def emitter_for(name: str) -> Emitter:
    """The emitter of the toolstack ``name`` with its default choices; raises as `toolstack`."""
    found = toolstack(name)
    return found.emitter(found.options())


def register(name: str, place: str) -> None:
    """Add a toolstack, as a line of :mod:`imagekit.spec.toolstack_names` does.

    ``place`` is ``MODULE:OBJECT``. Raises ValueError for a name that is taken, ImportError,
    AttributeError or TypeError, and enters nothing, when no toolstack ``name`` is there.
    """
    _loaded(name, place)
    toolstack_names.enter(name, place)


@cache
def _loaded(name: str, place: str) -> Toolstack[Any]:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, Toolstack) or found.name != name:
        raise TypeError(f"{place} does not declare the toolstack {name}")
    return found
