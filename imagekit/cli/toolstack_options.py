"""``--option KEY=VALUE``: the choices that a toolstack has beyond the domain."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from imagekit.errors import SpecError
from imagekit.toolstacks.glance import emitter as glance
from imagekit.toolstacks.opennebula import emitter as opennebula
from imagekit.toolstacks.output import Emitter
from imagekit.toolstacks.quattor import emitter as quattor
from imagekit.toolstacks.tarball import Handler
from imagekit.toolstacks.xapi.script import XapiEmitter

_CHOICES: dict[str, tuple[type[Any], Any]] = {
    "opennebula": (opennebula.Options, opennebula.OpenNebulaEmitter),
    "glance": (glance.Options, glance.GlanceEmitter),
    "quattor": (quattor.Options, quattor.QuattorEmitter),
}


def configured(emitter: Emitter, pairs: Sequence[str]) -> Emitter:
    """``emitter`` with its options set from ``KEY=VALUE`` pairs; raises SpecError."""
    if not pairs:
        return emitter
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in values:
            raise SpecError(f"{pair!r} is not KEY=VALUE, each key once", where="--option")
        values[key] = value
    if emitter.name == "xapi" and set(values) == {"handlers"}:
        named = values["handlers"].split(",")
        return XapiEmitter(handlers=tuple(_value(Handler, "handlers", name) for name in named))
    if emitter.name not in _CHOICES:
        raise SpecError(f"{emitter.name} has no options", where="--option")
    options, made = _CHOICES[emitter.name]
    result: Emitter = made(options(**_converted(options, values)))
    return result


def glance_options(emitter: Emitter) -> glance.Options:
    """The options of a Glance emitter, for the upload; raises SpecError for another."""
    if not isinstance(emitter, glance.GlanceEmitter):
        raise SpecError(
            f"{emitter.name} uploads nothing", where="--upload", hint="--toolstack glance"
        )
    return emitter.options


def _converted(options: type[Any], values: dict[str, str]) -> dict[str, Any]:
    known = {f.name for f in fields(options)}
    hints = get_type_hints(options)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise SpecError(
                f"there is no option {key!r}", where="--option", hint=", ".join(sorted(known))
            )
        found[key] = _value(hints[key], key, value)
    return found


def _value(kind: Any, key: str, value: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [k for k in get_args(kind) if k is not type(None)]
        return _value(kinds[0], key, value) if value else None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SpecError(
                f"{value!r} is not known",
                where=f"--option {key}",
                hint=f"one of {', '.join(get_args(kind))}",
            )
        return value
    if kind is bool:
        if value not in ("true", "false"):
            raise SpecError(f"{value!r} is neither true nor false", where=f"--option {key}")
        return value == "true"
    return value
