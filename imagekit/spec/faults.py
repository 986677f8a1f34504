"""What is wrong with data that does not fit a model, in our words: never in pydantic's.

Every ValidationError that a user can meet is worded here, by its type
(https://docs.pydantic.dev/latest/errors/validation_errors/) and by what the model wants there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from imagekit.errors import SpecError
from imagekit.spec.credentials import without_credentials_in
from imagekit.spec.nearest import did_you_mean, nearest
from imagekit.spec.shape import (
    Loc,
    Place,
    choices,
    either,
    keys,
    locate,
    phrase,
    place_of,
    places_of,
    tags,
)

MAX_SHOWN = 60
"""Characters of a value that a message repeats."""
MAX_WORDED = 200
"""More faults than that are counted, not worded: nobody reads them, and wording takes time."""
_HIDDEN = re.compile("password|secret|token|proxy|passphrase")
_WRONG_KIND = re.compile(
    r"(\w+_type|literal_error|enum|\w+_parsing(_size)?|int_from_float|none_required|"
    r"is_instance_of|is_subclass_of|model_attributes_type|finite_number)"
)
_PLAIN_SCALAR = re.compile(r"[A-Za-z0-9_.+-]+")


class Misfit(ValueError):
    """A value of a model that contradicts another: ``at`` is the field to blame, below the model.

    ``hint`` says what to do, if ``what`` does not.
    """

    def __init__(self, what: str, *at: str | int, hint: str | None = None) -> None:
        super().__init__(what)
        self.at = at
        self.hint = hint


def refuse_twice(value: list[str]) -> list[str]:
    """``value``; raises Misfit when a word is in it twice."""
    for index, word in enumerate(value):
        if word in value[:index]:
            raise Misfit(f"{word} is named twice", index, hint="name it once")
    return value


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: keys and indices that lead to it, what, and what to do."""

    loc: Loc
    what: str
    hint: str | None = None

    @property
    def field(self) -> str:
        """The place as a user writes it, ``nics[0].mac``; empty for the whole."""
        return place_of(self.loc)


@dataclass(frozen=True)
class _Found:
    kind: str
    place: Place
    value: Any
    context: Mapping[str, Any]


def faults(error: ValidationError, shape: Any, raw: Mapping[Loc, str] | None = None) -> list[Fault]:
    """Everything that ``error`` says of data of the type ``shape``, in order, one for each place.

    ``raw`` has scalars as they are written (``0644``), where that is known. Never empty.
    """
    found: dict[Loc, list[_Found]] = {}
    for item in error.errors(include_url=False):
        place = locate(shape, tuple(item["loc"]))
        one = _Found(str(item["type"]), place, item.get("input"), item.get("ctx") or {})
        found.setdefault(place.loc, []).append(one)
    # Where something below is wrong, the value fits one member of a union that far.
    deeper = {loc[:length] for loc in found for length in range(len(loc))}
    words: dict[Fault, None] = {}
    for loc, same in found.items():
        if len(words) >= MAX_WORDED:
            words[Fault(loc, "is wrong, too")] = None
            continue
        precise = [one for one in same if not _WRONG_KIND.fullmatch(one.kind)]
        if precise:
            for one in precise:
                words[_worded(one, shape)] = None
        elif loc not in deeper:
            words[_wrong_kind(same[0].place, same[0].value, raw or {})] = None
    return _without_consequences(list(words), found)


def _without_consequences(
    worded: list[Fault], found: Mapping[Loc, Sequence[_Found]]
) -> list[Fault]:
    """A field that is missing because its key is mistyped is one fault, not two."""
    meant = {
        (*loc[:-1], nearest(str(loc[-1]), keys(same[0].place.owners)))
        for loc, same in found.items()
        if same[0].kind == "extra_forbidden"
    }
    missing = {loc for loc, same in found.items() if same[0].kind == "missing"}
    return [fault for fault in worded if fault.loc not in meant & missing]


def refusal(error: ValidationError, shape: Any, where: str, hint: str | None = None) -> SpecError:
    """The first of :func:`faults` as an error about ``where``: a file, or an option."""
    first = faults(error, shape)[0]
    text = f"{first.field}: {first.what}" if first.field else first.what
    return SpecError(text, where=where, hint=first.hint or hint)


def _worded(one: _Found, shape: Any) -> Fault:
    loc, types = one.place.loc, one.place.types
    match one.kind:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return _unknown_key(one.place, shape)
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return Fault(loc, f"is required: it must be {phrase(types)}")
        case "union_tag_not_found" | "union_tag_invalid":
            return _tag(one)
        case "value_error" | "assertion_error":
            return _by_validator(one)
        case "string_pattern_mismatch":
            form = one.context.get("pattern", "")
            return Fault(loc, f"{shown(one.value, loc)} does not have the form {form}")
    return Fault(loc, _out_of_bounds(one))


def _unknown_key(place: Place, shape: Any) -> Fault:
    key, known = str(place.loc[-1]), keys(place.owners)
    meant = did_you_mean(key, known)
    if meant:
        return Fault(place.loc, f"unknown key{meant}")
    elsewhere = places_of(key, shape)
    if elsewhere:
        return Fault(place.loc, "unknown key here", f"there is {either(elsewhere[:3])}")
    return Fault(place.loc, "unknown key", f"known here: {', '.join(known)}" if known else None)


def _tag(one: _Found) -> Fault:
    field = str(one.context.get("discriminator", "")).strip("'")
    loc = (*one.place.loc, field)
    known = tags(one.place.types)
    if one.kind == "union_tag_not_found":
        return Fault(loc, f"is required: it must be {either(known)}")
    tag = one.value.get(field) if isinstance(one.value, Mapping) else one.context.get("tag")
    return Fault(loc, _not_one_of(shown(tag, loc), str(tag), known))


def _by_validator(one: _Found) -> Fault:
    reason = one.context.get("error")
    text = without_credentials_in(str(reason))
    if isinstance(reason, Misfit):
        return Fault((*one.place.loc, *reason.at), text, reason.hint)
    return Fault(one.place.loc, text)


def _out_of_bounds(one: _Found) -> str:
    limits, value = one.context, one.value
    match one.kind:
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{shown(value, one.place.loc)} is not allowed: it must be " + phrase(
                one.place.types
            )
        case "string_too_short":
            if not value:
                return "is empty"
            return f"has {len(value)} characters; at least {limits['min_length']} are needed"
        case "string_too_long":
            return f"has {len(value)} characters; at most {limits['max_length']} are allowed"
        case "too_short":
            least = limits["min_length"]
            return "is empty; name at least one" if least == 1 else f"needs at least {least} items"
        case "too_long":
            return f"has {len(value)} items; at most {limits['max_length']} are allowed"
        case "json_invalid":
            return "is not JSON"
        case "recursion_loop":
            return "contains itself"
    return f"{shown(value, one.place.loc)} is not allowed: it must be {phrase(one.place.types)}"


def _wrong_kind(place: Place, value: Any, raw: Mapping[Loc, str]) -> Fault:
    loc, types = place.loc, place.types
    written = raw.get(loc) or (str(value).lower() if isinstance(value, bool) else str(value))
    what = shown(value, loc, written)
    if value is None:
        return Fault(loc, f"is empty: it must be {phrase(types)}", "leave the key out, or fill it")
    known = choices(types)
    bare = {one.bare for one in types}
    name = next((part for part in reversed(loc) if isinstance(part, str)), "")
    scalar = isinstance(value, str | int | float)
    if known and isinstance(value, str):
        return Fault(loc, _not_one_of(what, value, known, phrase(types)))
    said = f"{what} is not allowed: it must be {phrase(types)}"
    if scalar and not isinstance(value, str) and (str in bare or written in known):
        key = f"{name}: " if loc and isinstance(loc[-1], str) else "- "
        hint = None if _is_hidden(loc) else f'quote it: {key}"{written}"'
        return Fault(loc, said, hint)
    if scalar and _lists_of_scalars(types) and not _is_hidden(loc):
        plain = isinstance(value, str) or not phrase(types).endswith("texts")
        item = written if plain and _PLAIN_SCALAR.fullmatch(written) else f'"{written}"'
        return Fault(loc, said, f"write it as a list: {name}: [{item}]")
    return Fault(loc, said)


def _lists_of_scalars(types: Sequence[Any]) -> bool:
    for one in types:
        text = phrase([one])
        if text.startswith("a list") and "mapping" not in text:
            return True
    return False


def _not_one_of(what: str, word: str, known: Sequence[str], allowed: str | None = None) -> str:
    return f"{what} is not allowed: it must be {allowed or either(known)}" + did_you_mean(
        word, known
    )


def shown(value: object, loc: Loc = (), written: str | None = None) -> str:
    """``value`` for a message: what kind it is, and as it is ``written`` if it is short.

    Passwords are not shown, nor what stands where one belongs.
    """
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    kind = "text"
    if isinstance(value, bool):
        kind = "the truth value"
    elif isinstance(value, int | float):
        kind = "the number"
    if _is_hidden(loc):
        return "this value"
    text = without_credentials_in(str(value) if written is None else written)
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + "..."
    return repr(text) if kind == "text" else f"{kind} {text}"


def _is_hidden(loc: Loc) -> bool:
    return any(isinstance(part, str) and _HIDDEN.search(part) for part in loc)
