"""What a model wants at a place: pydantic's locations of errors, read against the types.

In a location (``loc`` of https://docs.pydantic.dev/latest/errors/errors/) keys and indices are
mixed with names of the members of unions that were tried: ``install.iso.memory`` is the field
``install.memory`` of the method ``iso``, or the field ``memory`` of ``install.iso``. The types say
which.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from imagekit.spec.values import parse_memory, parse_size

Loc = tuple[str | int, ...]
_SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    NoneType: "nothing",
    object: "anything",
}
_VALUES: dict[Any, str] = {
    parse_size: "a size with a unit, such as 512MiB or 10GiB",
    parse_memory: "MiB, or a size with a unit such as 2GiB",
}
MAX_DEPTH = 12


@dataclass(frozen=True)
class Type:
    """A type without Annotated, and what pydantic was told of it besides."""

    bare: Any
    metadata: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Field:
    """A field of a model: its key in documents, and its type, or pydantic's FieldInfo of it."""

    name: str
    shape: Any


@dataclass(frozen=True)
class Place:
    """A place in a document: the keys and indices to it, and the types it may have.

    ``tried`` are those of ``types`` that the error is about; ``owners`` the types of the mapping
    that the place is a key of.
    """

    loc: Loc
    types: tuple[Type, ...]
    tried: tuple[Type, ...] = ()
    owners: tuple[Type, ...] = ()


def place_of(loc: Loc) -> str:
    """``loc`` as a user writes it: ``nics[0].mac``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def locate(shape: Any, loc: Loc) -> Place:
    """Where in a document of the type ``shape`` the location ``loc`` of an error is."""
    real: list[str | int] = []
    types = tried = tuple(members(shape))
    owners: tuple[Type, ...] = ()
    for part in loc:
        wanted = tuple(one for one in tried if one.bare is not NoneType)
        if len(wanted) > 1:
            tried = tuple(one for one in wanted if _is_tag(one, part)) or wanted
            continue
        below = _below(wanted[0], part) if wanted and part != "[key]" else None
        if below is None:
            continue  # the name of a validator, or of what is wrong with a key
        real.append(part)
        owners, types, tried = wanted, below, below
    return Place(tuple(real), types, tried, owners)


def members(shape: Any, metadata: tuple[Any, ...] = ()) -> Iterator[Type]:
    """The types that ``shape`` (a type, or a field of a model) allows."""
    if isinstance(shape, FieldInfo):
        yield from members(shape.annotation, (*metadata, *shape.metadata))
    elif get_origin(shape) is Annotated:
        inner, *more = get_args(shape)
        yield from members(inner, (*metadata, *more))
    elif get_origin(shape) in (Union, UnionType):
        for member in get_args(shape):
            yield from members(member, metadata)
    else:
        yield Type(shape, metadata)


def fields(shape: Any) -> list[Field]:
    """The fields of a model or dataclass; none for other types."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return [Field(info.alias or name, info) for name, info in shape.model_fields.items()]
    if isinstance(shape, type) and dataclasses.is_dataclass(shape):
        hints = get_type_hints(shape, include_extras=True)
        return [Field(field.name, hints[field.name]) for field in dataclasses.fields(shape)]
    return []


def keys(types: Iterable[Type]) -> list[str]:
    """The keys that mappings of ``types`` may have, each once."""
    return list(dict.fromkeys(field.name for t in types for field in fields(t.bare)))


def places_of(key: str, shape: Any) -> list[str]:
    """Where else in documents of ``shape`` a field called ``key`` is, as ``disk.size``."""
    found: list[str] = []
    _search(key, shape, "", found, ())
    return list(dict.fromkeys(found))


def _search(key: str, shape: Any, above: str, found: list[str], seen: tuple[Any, ...]) -> None:
    for one in members(shape):
        bare = one.bare
        if get_origin(bare) is list:
            _search(key, get_args(bare)[0], f"{above}[]", found, seen)
        elif bare not in seen and len(seen) < MAX_DEPTH:
            for field in fields(bare):
                place = f"{above}.{field.name}" if above else field.name
                if field.name == key and above:
                    found.append(place)
                _search(key, field.shape, place, found, (*seen, bare))


def choices(types: Iterable[Type]) -> list[str]:
    """The words that a place of ``types`` may have, if they can be listed; else nothing."""
    found: list[str] = []
    for one in types:
        if get_origin(one.bare) is Literal:
            found += [str(word) for word in get_args(one.bare)]
    return found


def tags(types: Iterable[Type]) -> list[str]:
    """The words that tell models of a union apart: one Literal field of one word each."""
    found: list[str] = []
    for one in types:
        for field in fields(one.bare):
            words = choices(members(field.shape))
            if len(words) == 1:
                found += words
                break
    return found


def phrase(types: Iterable[Type]) -> str:
    """What is allowed at a place of ``types``: ``dhcp, none or a mapping of addresses ...``."""
    wanted = [one for one in types if one.bare is not NoneType]
    tagged = tags(wanted) if len(wanted) > 1 else []
    if tagged and len(tagged) == len(wanted):
        return f"a mapping with method: {either(tagged)}"
    parts: list[str] = []
    for one in wanted:
        parts += choices([one]) or [_one(one)]
    return either(list(dict.fromkeys(parts))) or "left out"


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def _one(one: Type) -> str:
    for entry in one.metadata:
        if (said := _VALUES.get(getattr(entry, "func", None))) is not None:
            return said
    bare, origin = one.bare, get_origin(one.bare)
    if origin in (list, tuple):
        return _list(tuple(members(get_args(bare)[0])) if get_args(bare) else ())
    if names := keys([one]):
        return f"a mapping with the keys {', '.join(names)}" if len(names) < 13 else "a mapping"
    if origin in (dict, Mapping) or bare is dict:
        return "a mapping"
    if origin is not None:
        return "another value"
    words = _WORDS.get(bare, "another value")
    return words + bounds(one.metadata) if bare in (int, float) else words


def _list(inner: Sequence[Type]) -> str:
    listed = choices(inner)
    if listed or len(inner) != 1:
        return f"a list of {either(listed)}" if listed else "a list"
    words = _one(inner[0])
    for single, plural in (("a mapping", "mappings"), ("text", "texts"), ("a path", "paths")):
        if words.startswith(single):
            return f"a list of {plural}{words.removeprefix(single)}"
    return "a list"


def bounds(metadata: Iterable[Any]) -> str:
    """`` from 1 to 512``, of the bounds of a number; nothing without any."""
    low = high = None
    for entry in metadata:
        if isinstance(entry, Ge | Gt):
            low = entry.ge if isinstance(entry, Ge) else f"above {entry.gt}"
        elif isinstance(entry, Le | Lt):
            high = entry.le if isinstance(entry, Le) else f"below {entry.lt}"
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f", at least {low}"
    return "" if high is None else f", at most {high}"


def _below(one: Type, part: str | int) -> tuple[Type, ...] | None:
    """The types below a key or an index; None where there can be none."""
    known = fields(one.bare)
    if known:
        if isinstance(part, int):
            return None
        return tuple(m for field in known if field.name == part for m in members(field.shape))
    origin, args = get_origin(one.bare), get_args(one.bare)
    if origin in (list, tuple) and isinstance(part, int):
        return tuple(members(args[0]))
    if (origin in (dict, Mapping) or one.bare is dict) and isinstance(part, str):
        return tuple(members(args[1])) if args else ()
    return None


def _is_tag(one: Type, part: str | int) -> bool:
    """Whether pydantic means this member of a union by ``part``."""
    if not isinstance(part, str):
        return False
    bare, origin = one.bare, get_origin(one.bare)
    if fields(bare):
        return part in tags([one]) or bool(re.search(rf"\b{re.escape(bare.__name__)}\b", part))
    if origin is Literal:
        return part.startswith("literal[")
    if origin in (list, dict):
        return bool(re.match(rf"(function-\w+\[.*)?{origin.__name__}\[", part))
    names = [name for name, scalar in _SCALARS.items() if scalar is bare]
    return any(re.search(rf"(^|-|, ){name}\]*$", part) for name in names)
