"""What does not fit a model is told in our words, whatever is wrong and wherever."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from imagekit.domain.guestdb import GuestDb
from imagekit.netboot.request import Request
from imagekit.provision.request import GuestRequest, Guests
from imagekit.spec.faults import faults, refusal
from imagekit.spec.lock import Lock
from imagekit.spec.manifest import Manifest
from imagekit.spec.model import Spec
from imagekit.spec.nearest import nearest
from imagekit.spec.shape import Loc, fields, locate, members

WHOLE: dict[str, Any] = {
    "name": "web01",
    "os": {"suite": "bookworm"},
    "install": {"method": "debootstrap"},
}
PYDANTIC = re.compile(
    "Input should|Unable to extract|instance of|valid (string|integer|list|dict|bool)|"
    "Field required|Extra inputs|discriminator|Value error|should match|literal|"
    "union|_type|at least \\d+ char|Assertion|pydantic|object at 0x|NoneType|function-|ge=|None"
)
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "0644", "yes", "a b", "hunter2hunter2", "é\n", "x" * 5000])
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=4,
)


def places(shape: Any, above: Loc = (), depth: int = 0) -> Iterator[tuple[Loc, Any]]:
    """Every field of ``shape``, and the first item of every list, with a document around it."""
    for one in members(shape):
        if get_origin(one.bare) is list and depth < 9:
            yield (*above, 0), one.bare
            yield from places(get_args(one.bare)[0], (*above, 0), depth + 1)
        for field in fields(one.bare):
            yield (*above, field.name), one.bare
            if depth < 9:
                yield from places(field.shape, (*above, field.name), depth + 1)


EVERY = sorted({(loc, owner) for loc, owner in places(Spec)}, key=lambda x: (str(x[0]), str(x[1])))
METHODS = {
    str(get_args(m.model_fields["method"].annotation)[0]): m
    for m in (one.bare for one in members(Spec.model_fields["install"]))
}


def holding(loc: Loc, value: Any, owner: Any) -> dict[str, Any]:
    """A spec with ``value`` at ``loc``, of the method that has such a field."""
    spec = deepcopy(WHOLE)
    if loc[0] == "install" and len(loc) > 1:
        method = next((n for n, m in METHODS.items() if m is owner), None)
        spec["install"] = {
            "method": method or next(n for n, m in METHODS.items() if loc[1] in m.model_fields)
        }
    node: Any = spec
    for part, after in zip(loc, (*loc[1:], None), strict=True):
        new: Any = value if after is None else [] if after == 0 else {}
        if isinstance(part, int):
            node.append(new)
            node = node[-1]
        else:
            node[part] = new if after is None else node.get(part) or new
            node = node[part]
    return spec


def test_the_fields_of_the_schema_are_all_here() -> None:
    names = {name for loc, _ in EVERY for name in loc if isinstance(name, str)}
    schema = Spec.model_json_schema()
    wanted = {n for d in (schema, *schema["$defs"].values()) for n in d.get("properties", {})}
    assert wanted == names


def checked(loc: Loc, value: Any, owner: Any) -> None:
    """``value`` at ``loc`` is taken, or refused in our words and by the field."""
    try:
        Spec.model_validate(holding(loc, value, owner))
    except ValidationError as error:
        found = faults(error, Spec)
        assert found
        for fault in found:
            text = f"{fault.what} {fault.hint or ''}"
            assert not PYDANTIC.search(text.replace(repr(value), "")), text
            assert len(text) < 1200
        # The field is blamed, what is below it, or one above that it contradicts or leaves bare.
        blamed = [f.loc for f in found if f.loc[: len(loc)] == loc or loc[: len(f.loc)] == f.loc]
        others = [f for f in found if f.loc not in blamed]
        assert all("is required" in f.what or "hvm" in f.what for f in others), found


@given(st.sampled_from(EVERY), DATA)
def test_no_value_of_any_field_is_refused_in_pydantics_words(
    place: tuple[Loc, Any], value: Any
) -> None:
    checked(place[0], value, place[1])


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 12, 4.2, "", "no such", "a\nb", [], [0], [None], {}, {"x": {}}]
)
def test_a_wrong_kind_in_every_field_is_told_in_our_words(value: object) -> None:
    for loc, owner in EVERY:
        checked(loc, value, owner)


@pytest.mark.parametrize(
    "secret", [{"env": "hunter2 hunter2"}, "hunter2hunter2", ["hunter2"], 4711, {"file": "a,4711"}]
)
def test_what_stands_where_a_password_belongs_is_not_shown(secret: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(WHOLE | {"identity": {"root_password": secret}})
    for fault in faults(caught.value, Spec):
        assert "hunter2" not in fault.what and "number" not in fault.what


def test_a_password_in_a_url_is_not_shown() -> None:
    url = "http://bob:hunter2@mirror.example/debian path"
    with pytest.raises(ValidationError) as caught:
        Spec.model_validate(WHOLE | {"os": {"suite": "x", "mirror": url}})
    assert [f.field for f in faults(caught.value, Spec)] == ["os.mirror"]
    assert "hunter2" not in faults(caught.value, Spec)[0].what


@pytest.mark.parametrize("shape", [GuestDb, Request, GuestRequest, Guests, Lock, Manifest])
@given(data=DATA)
def test_no_other_file_is_refused_in_pydantics_words(shape: type[BaseModel], data: Any) -> None:
    try:
        shape.model_validate(data)
    except ValidationError as error:
        text = str(refusal(error, shape, "file"))
        assert not PYDANTIC.search(text.replace(repr(data), "")), text


@given(st.sampled_from(sorted(Spec.model_fields)), st.integers(0, 40), st.booleans())
def test_one_letter_less_is_still_found(name: str, at: int, upper: bool) -> None:
    word = name[: at % len(name)] + name[at % len(name) + 1 :]
    if len(word) > 2:
        assert nearest(word.upper() if upper else word, [name]) == name


@given(st.text(max_size=100))
def test_what_is_known_is_the_nearest_to_itself(word: str) -> None:
    assert nearest(word, ["something else", word]) == (word if len(word) <= 64 else None)


@pytest.mark.parametrize(
    ("loc", "real"),
    [
        (("install", "iso", "memory"), ("install", "memory")),
        (("install", "iso", "iso", "function-after[_url(), str]"), ("install", "iso")),
        (("nics", 0, "network", "StaticNetwork", "dns", 1), ("nics", 0, "network", "dns", 1)),
        (("nics", 0, "network", "literal['dhcp','none']"), ("nics", 0, "network")),
        (("machine", "raw", "xll", "[key]"), ("machine", "raw", "xll")),
        (("files", 3, "nothing"), ("files", 3, "nothing")),
    ],
)
def test_a_location_is_told_from_the_unions_that_were_tried(loc: Loc, real: Loc) -> None:
    assert locate(Spec, loc).loc == real
