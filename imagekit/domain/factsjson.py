"""Facts to JSON and back, checked key by key.

A manifest can come from another version or from a person, so nothing in it is trusted: unknown and
missing keys, wrong types and absurd sizes are refused with the key's name.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping

from imagekit.domain.text import MAX_TEXT_BYTES, refuse

MAX_ITEMS = 4096
Kind = typing.TypeVar("Kind")


def dump(value: object) -> dict[str, object]:
    """A dataclass as a dict of JSON values; a VNC password is left out."""
    return typing.cast(dict[str, object], _plain(value))


def load(value: object, kind: type[Kind], where: str) -> Kind:
    """``value`` (parsed JSON) as the dataclass ``kind``; raises SpecError."""
    return typing.cast(Kind, _typed(value, kind, where))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Fields kept out of repr() are secrets, and a manifest is no place for those.
        return {
            f.name: _plain(getattr(value, f.name)) if f.repr else None
            for f in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _typed(value: object, kind: typing.Any, where: str) -> object:
    """``value`` as ``kind``, a type annotation of the facts or the model."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, where)
    if origin is typing.Literal:
        if value not in args or isinstance(value, bool):
            refuse(f"{value!r} is not known", where, f"one of {', '.join(map(str, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(value, args, where)
    if origin is tuple:
        items = _list(value, where)
        return tuple(_typed(item, args[0], f"{where}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        pairs = _object(value, where)
        return {
            _typed(key, args[0], where): _typed(item, args[1], f"{where}.{key}")
            for key, item in pairs.items()
        }
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        refuse(f"should be {kind.__name__}, not {type(value).__name__}", where)
    if isinstance(value, str) and len(value) > MAX_TEXT_BYTES:
        refuse(f"is longer than {MAX_TEXT_BYTES} characters", where)
    return value


def _union(value: object, kinds: tuple[typing.Any, ...], where: str) -> object:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        origin = typing.get_origin(kind) or kind
        if (origin is tuple and isinstance(value, list)) or (
            isinstance(origin, type) and type(value) is origin
        ):
            return _typed(value, kind, where)
    return _typed(value, others[0], where)


def _dataclass(value: object, kind: type[typing.Any], where: str) -> object:
    given = _object(value, where)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            refuse(f"the key {key!r} is not known", where)
    for name, spec in fields.items():
        required = (
            spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        )
        if required and name not in given:
            refuse(f"the key {name!r} is missing", where)
    return kind(**{key: _typed(item, hints[key], f"{where}.{key}") for key, item in given.items()})


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        refuse(f"should be an object, not {type(value).__name__}", where)
    if len(value) > MAX_ITEMS:
        refuse(f"has over {MAX_ITEMS} keys", where)
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        refuse(f"should be a list, not {type(value).__name__}", where)
    if len(value) > MAX_ITEMS:
        refuse(f"has over {MAX_ITEMS} items", where)
    return value
