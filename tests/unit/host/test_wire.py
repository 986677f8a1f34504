"""Only what the expected type names is made of what another process says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.host.wire import WireError, decode, encode

# With surrogates: names of files that are not UTF-8.
TEXTS = st.text(st.characters())


@dataclass(frozen=True)
class Leaf:
    name: str
    number: int | None = None


@dataclass(frozen=True)
class Other:
    name: str


@dataclass(frozen=True)
class Tree:
    kind: Literal["a", "b", 3]
    one: Leaf | Other
    many: tuple[Leaf, ...]
    pair: tuple[str, int]
    names: frozenset[str]
    table: Mapping[str, str | int | bool]
    data: bytes
    place: Path
    hidden: bool = field(default=False, repr=False, compare=False)


LEAVES = st.builds(Leaf, TEXTS, st.none() | st.integers())
TREES = st.builds(
    Tree,
    st.sampled_from(["a", "b", 3]),
    LEAVES | st.builds(Other, TEXTS),
    st.lists(LEAVES, max_size=3).map(tuple),
    st.tuples(TEXTS, st.integers()),
    st.frozensets(TEXTS, max_size=3),
    st.dictionaries(TEXTS, TEXTS | st.integers() | st.booleans(), max_size=3),
    st.binary(max_size=20),
    st.sampled_from([Path("a"), Path("/b/\udcff")]),
    st.booleans(),
)


@given(TREES)
def test_what_is_said_is_what_is_heard(tree: Tree) -> None:
    (heard,) = decode((Tree,), encode((tree,)))
    assert heard == tree
    assert heard.hidden == tree.hidden
    assert {k: type(v) for k, v in heard.table.items()} == {
        k: type(v) for k, v in tree.table.items()
    }


@given(TREES, st.data())
def test_no_other_type_is_taken_for_it(tree: Tree, data: st.DataObject) -> None:
    value: list[Any] = json.loads(encode((tree,)))
    place = data.draw(st.integers(0, len(value[0]) - 1))
    value[0][place] = data.draw(st.sampled_from([None, 1.5, [None], {"a": None}, "!", True]))
    try:
        (heard,) = decode((Tree,), json.dumps(value).encode())
    except WireError:
        return
    # What was put there is of the type that the field has.
    assert isinstance(heard, Tree)
    assert type(heard.place) is type(tree.place)
    assert isinstance(heard.hidden, bool)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (int, b"[true]"),
        (bool, b"[1]"),
        (str, b"[null]"),
        (bytes, b'["?"]'),
        (float, b"[1]"),
        (Leaf, b'[["Leaf","a"]]'),
        (Leaf, b'[["Leaf","a",1,2]]'),
        (Leaf, b'[["Other","a",1]]'),
        (Leaf, b'[{"name":"a"}]'),
        (Leaf | None, b'[["Tree"]]'),
        (tuple[str, int], b'[["a"]]'),
        (tuple[str, ...], b'[["a",1]]'),
        (Mapping[str, int], b'[{"a":"b"}]'),
        (Literal["a"], b'["b"]'),
        (Literal[1], b"[true]"),
        (str, b'["a","b"]'),
        (str, b"["),
        (str, b""),
        (str, b"[" * 100_000),
        (int, b"[" + b"9" * 5000 + b"]"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, said: bytes) -> None:
    with pytest.raises(WireError):
        decode((kind,), said)


@pytest.mark.parametrize("value", [object(), {1: "a"}, 1j, {"a": object()}, [print]])
def test_what_has_no_form_is_not_sent(value: object) -> None:
    with pytest.raises(TypeError, match="over the wire"):
        encode((value,))
