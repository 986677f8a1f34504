"""``--option KEY=VALUE``: the choices that a toolstack has beyond the domain."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from imagekit.errors import SpecError
from imagekit.spec.nearest import did_you_mean
from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.registry import toolstacks

Choices = TypeVar("Choices")


@dataclass(frozen=True)
class Choice:
    """One choice as text, and the option of the command line that made it."""

    key: str
    value: str
    flag: str = "--option"


def choices(pairs: Sequence[str]) -> tuple[Choice, ...]:
    """Choices from ``KEY=VALUE`` pairs; raises SpecError."""
    found: dict[str, Choice] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in found:
            raise SpecError(f"{pair!r} is not KEY=VALUE, each key once", where="--option")
        found[key] = Choice(key, value)
    return tuple(found.values())


def chosen(toolstack: Toolstack[Choices], made: Sequence[Choice]) -> Choices:
    """The options of ``toolstack`` with the choices ``made``; raises SpecError."""
    hints = get_type_hints(toolstack.options)
    values: dict[str, Any] = {}
    for choice in made:
        if choice.key not in toolstack.option_names:
            _refuse(toolstack, choice)
        values[choice.key] = _converted(hints[choice.key], choice.key, choice.value)
    return toolstack.options(**values)


def _refuse(toolstack: Toolstack[Any], choice: Choice) -> NoReturn:
    known = toolstack.option_names
    others = [other.name for other in toolstacks() if choice.key in other.option_names]
    if choice.flag != "--option" or not known:
        raise SpecError(
            f"{toolstack.name} has no {choice.key}"
            if known
            else f"{toolstack.name} has no options",
            where=choice.flag,
            hint=f"--toolstack {' or '.join(others)} has {choice.key}" if others else None,
        )
    raise SpecError(
        f"there is no option {choice.key!r}{did_you_mean(choice.key, known)}",
        where="--option",
        hint=", ".join(sorted(known)),
    )


def _converted(kind: Any, key: str, value: str) -> Any:
    """``value`` as the type ``kind`` of a field; an empty text is None where a field may be."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [k for k in get_args(kind) if k is not type(None)]
        return _converted(kinds[0], key, value) if value else None
    if get_origin(kind) is tuple:
        return tuple(_converted(get_args(kind)[0], key, item) for item in value.split(","))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SpecError(
                f"{value!r} is not known{did_you_mean(value, get_args(kind))}",
                where=f"--option {key}",
                hint=f"one of {', '.join(get_args(kind))}",
            )
        return value
    if kind is bool:
        if value not in ("true", "false"):
            raise SpecError(f"{value!r} is neither true nor false", where=f"--option {key}")
        return value == "true"
    return value
