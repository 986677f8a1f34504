"""Objects as JSON between a process of ours and one that a stranger may have taken over.

What is read is checked against the type that is expected, down to each field, and nothing is made
but what that type names: frozen dataclasses, tuples, frozensets, mappings with text as keys, text
(surrogates too), bytes, numbers, None.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import json
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Reader = Callable[[object], Any]


class WireError(Exception):
    """What was received is not of the type that was expected; the text says where."""


def encode(value: object) -> bytes:
    """``value`` as JSON. Raises TypeError for what has no form here."""
    return json.dumps(_plain(value), separators=(",", ":")).encode("ascii")


def decode(kinds: Sequence[Any], data: bytes) -> tuple[Any, ...]:
    """The objects, one of each of ``kinds``, that ``data``, an encoded tuple, holds.

    Raises WireError.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {type(error).__name__}") from None
    return _fixed(tuple(map(_reader, kinds)), value)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return [type(value).__name__, *(_plain(getattr(value, f.name)) for f in fields)]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | frozenset | set):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} does not go over the wire")


@functools.cache
def _reader(kind: Any) -> Reader:
    """The function that makes a ``kind`` of a JSON value, or raises WireError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin in (Union, types.UnionType):
        return functools.partial(_any_of, tuple(map(_reader, arguments)))
    if origin is tuple and arguments[1:] != (...,):
        return functools.partial(_fixed, tuple(map(_reader, arguments)))
    if origin in (tuple, list, frozenset, Sequence):
        return functools.partial(_many, tuple if origin is Sequence else origin, arguments[0])
    if origin in (dict, Mapping) and arguments[0] is str:
        return functools.partial(_mapping, _reader(arguments[1]))
    raise TypeError(f"{kind} does not go over the wire")


def _dataclass_reader(kind: type) -> Reader:
    def read(value: object) -> Any:
        if not isinstance(value, list) or value[:1] != [kind.__name__]:
            raise WireError(f"no {kind.__name__}")
        if len(value) != len(readers) + 1:
            raise WireError(f"a {kind.__name__} with {len(value) - 1} fields")
        return kind(*(reader(item) for reader, item in zip(readers, value[1:], strict=True)))

    # The reader stands before its fields', of which one may hold another of the same kind.
    hints = get_type_hints(kind)
    readers = [_reader(hints[field.name]) for field in dataclasses.fields(kind)]
    return read


def _many(make: Callable[[Any], Any], item: Any, value: object) -> Any:
    if not isinstance(value, list):
        raise WireError("no list")
    return make(map(_reader(item), value))


def _fixed(readers: tuple[Reader, ...], value: object) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != len(readers):
        raise WireError(f"no list of {len(readers)}")
    return tuple(reader(item) for reader, item in zip(readers, value, strict=True))


def _mapping(reader: Reader, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WireError("no mapping")
    return {key: reader(item) for key, item in value.items()}


def _one_of(allowed: tuple[object, ...], value: object) -> object:
    for choice in allowed:
        if type(value) is type(choice) and value == choice:
            return value
    raise WireError(f"none of {allowed}")


def _any_of(readers: tuple[Reader, ...], value: object) -> Any:
    for reader in readers:
        try:
            return reader(value)
        except WireError as error:
            last = error
    raise last


def _exactly(kind: type) -> Reader:
    def read(value: object) -> Any:
        if type(value) is not kind:
            raise WireError(f"no {kind.__name__}")
        return value

    return read


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a key that is not text does not go over the wire")
    return value


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_exactly(str)(value), validate=True)
    except (binascii.Error, ValueError):
        raise WireError("no base64") from None


_SIMPLE: dict[Any, Reader] = {
    **{kind: _exactly(kind) for kind in (bool, int, float, str)},
    types.NoneType: _exactly(types.NoneType),
    None: _exactly(types.NoneType),
    bytes: _bytes,
    Path: lambda value: Path(_exactly(str)(value)),
}
