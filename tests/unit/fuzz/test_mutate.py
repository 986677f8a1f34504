"""Changes keep most of an input, reach every part of it, and never fail."""

from __future__ import annotations

import json
import random

import pytest
from fuzz import mutate
from fuzz.targets import TARGETS
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary(max_size=300), st.integers(0, 1 << 32))
def test_any_bytes_can_be_changed(data: bytes, seed: int) -> None:
    source = random.Random(seed)
    known = mutate.fields("<", (0, 4), (8, 2), (290, 8)) + mutate.fields(">", (4, 1))
    for _ in range(5):
        data = mutate.binary(source, data, known)
        data = mutate.text(source, data, ("word", "\udc80"))[:4000]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_changes_any_bytes(name: str) -> None:
    # The guided search gives its own inputs to the mutations of a format: cut, joined, of others.
    target, source = TARGETS[name], random.Random(name)
    others = [other.valid[0] for other in TARGETS.values()]
    for _ in range(400):
        data = source.choice((*target.valid, source.choice(others)))
        cut = source.choice((len(data), source.randrange(len(data) + 1), source.randrange(64)))
        data = data[:cut] + source.choice((b"", b"\0" * 9, data[:cut]))
        for _ in range(3):
            data = target.mutate(source, data)
            assert isinstance(data, bytes)


def test_fields_change_and_what_is_beside_them_does_not() -> None:
    source = random.Random(1)
    seen = set()
    for _ in range(200):
        data = bytearray(b"\x55" * 12)
        mutate.set_field(source, data, mutate.Field(4, 4, ">"))
        assert (bytes(data[:4]), bytes(data[8:])) == (b"\x55" * 4, b"\x55" * 4)
        seen.add(bytes(data[4:8]))
    assert len(seen) > 40
    assert {b"\0\0\0\0", b"\xff\xff\xff\xff"} <= seen


def test_a_tree_changes_in_one_place_and_stays_json() -> None:
    source = random.Random(1)
    value = {"a": [1, {"b": "text"}, None], "c": {"d": {"e": 1.5}}}
    data = json.dumps(value).encode()
    made = [json.loads(mutate.tree(source, data)) for _ in range(400)]
    assert len({json.dumps(one) for one in made}) > 60
    assert {"c": {"d": {"e": 1.5}}} in made
    assert {"a": [1, {}, None], "c": {"d": {"e": 1.5}}} in made
    assert None in made
    assert mutate.tree(source, b"{") == b"{"


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_of_a_target_are_many(name: str) -> None:
    target = TARGETS[name]
    made = {target.input(number) for number in range(100)}
    assert len(made) > 60
    assert not made <= set(target.valid)
