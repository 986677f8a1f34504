"""Small YAML texts that mean, or cost, a lot are refused by every reader, quickly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml.error import YAMLError

from imagekit.domain import guestdb
from imagekit.errors import GuestError, SpecError
from imagekit.guest.network.setting import _netplan_of
from imagekit.netboot import request
from imagekit.provision.request import read_guests
from imagekit.spec.load import MAX_ERRORS, load_spec
from imagekit.spec.lock import read_lock
from imagekit.spec.yamltext import MAX_DEPTH, MAX_NODES, MAX_NUMBER, yaml_reader

SECONDS = 15.0
HEAD = "name: a\nos: {suite: bookworm}\ninstall: {method: debootstrap}\ndisk: {size: 2GiB}\n"


def doubling(first: str, again: str) -> str:
    """40 anchors, each of which holds the one before twice."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {again.format(f'*a{i - 1}')}" for i in range(1, 40)]
    return "\n".join(lines) + "\n"


BOMBS = {
    "lists": doubling("[x, x]", "[{0}, {0}]"),
    "mappings": doubling("{x: y}", "{{k: {0}, l: {0}}}"),
    "merges": doubling("{x: y}", "{{<<: [{0}, {0}]}}"),
    "a list of one": "a: &a [" + "x, " * 200 + "x]\nb: [" + "*a, " * 9000 + "*a]\n",
    "itself": "a: &a {b: [*a]}\n",
    "levels by aliases": doubling("[x]", "[[{0}]]"),
    "levels": "a: " + "[" * 400 + "]" * 400 + "\n",
    "number": "a: " + "7" * 9000 + "\n",
    "sexagesimal": "%YAML 1.1\n---\na: " + "1:" * 200_000 + "1\n",
}

READERS: dict[str, Callable[[Path], object]] = {
    "spec": load_spec,
    "lock": read_lock,
    "guest database": guestdb.load,
    "netboot request": request.load,
    "guests to provision": read_guests,
    "netplan": lambda path: _netplan_of(path.read_text(), str(path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_reader_takes_a_bomb(tmp_path: Path, reader: str, bomb: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(BOMBS[bomb])
    started = time.monotonic()
    with pytest.raises((SpecError, GuestError)) as caught:
        READERS[reader](path)
    assert time.monotonic() - started < SECONDS
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


KEYS = {
    "a mapping": "{{a: 1}: 2}: 3\n",
    "a mapping with a list": "? {a: [1]}\n: x\n",
    "a mapping with a mapping": "x: {{a: {b: 1}}: 2}\n",
    "a list": "[1, 2]: 3\n",
    "a list with a mapping": "? - {a: b}\n: x\n",
    "an alias": "a: &a {b: {c: d}}\n*a : x\n",
    "an alias of a list": "a: &a [[1], {}]\nb: {*a : {*a : 1}}\n",
    "an alias in a list": "a: &a {b: c}\nb: [{x: 1, ? *a : 2}]\n",
    "empty ones": "{{}: {}, []: []}\n",
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", KEYS)
def test_no_reader_takes_a_key_that_is_no_word(tmp_path: Path, reader: str, key: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(KEYS[key])
    with pytest.raises((SpecError, GuestError)) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("typ", ["safe", "rt"])
@pytest.mark.parametrize("key", KEYS)
def test_the_error_of_a_key_says_what_it_is(typ: str, key: str) -> None:
    with pytest.raises(YAMLError, match="a key that is a mapping or a list"):
        yaml_reader("rt" if typ == "rt" else "safe").load(KEYS[key])


def test_keys_of_numbers_and_words_stay() -> None:
    found = yaml_reader().load("first: &a word\n7: x\n2.5: y\ntrue: z\n~: n\n? *a\n: again\n")
    assert list(found) == ["first", 7, 2.5, True, None, "word"]


def test_the_error_names_line_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "guest.yaml"
    path.write_text(HEAD + "labels: &a [x]\nscripts: [" + "*a, " * 30_000 + "]\n")
    with pytest.raises(SpecError, match="more than 20000 keys and values") as caught:
        load_spec(path)
    assert caught.value.where is not None
    assert caught.value.where.startswith(f"{path}:6:")


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{i}: 1\n" for i in range(80_000)),
        "".join(f"k{i}: 1\n" for i in range(9_000)),
        "scripts:\n" + "- a b\n" * 160_000,
        "scripts:\n" + "- {a: b}\n" * 6_000,
    ],
    ids=["80,000 keys", "9,000 keys", "160,000 scripts", "6,000 scripts"],
)
def test_many_mistakes_are_told_in_few_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "guest.yaml"
    path.write_text(HEAD + text)
    started = time.monotonic()
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert time.monotonic() - started < SECONDS
    assert len(str(caught.value).splitlines()) <= MAX_ERRORS + 2


def test_the_last_line_counts_the_mistakes_that_are_not_told(tmp_path: Path) -> None:
    path = tmp_path / "guest.yaml"
    path.write_text(HEAD + "".join(f"k{i}: 1\n" for i in range(MAX_ERRORS + 7)))
    with pytest.raises(SpecError, match="and 7 more"):
        load_spec(path)
    path.write_text(HEAD + "".join(f"k{i}: 1\n" for i in range(MAX_ERRORS)))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert "more;" not in str(caught.value)


def test_an_override_is_read_with_the_same_bounds(tmp_path: Path) -> None:
    path = tmp_path / "guest.yaml"
    path.write_text(HEAD)
    with pytest.raises(SpecError):
        load_spec(path, ["scripts=" + "[" * 300 + "]" * 300])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("xyz"), inner, max_size=4),
    max_leaves=30,
)


def nodes(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + nodes(item) for item in value.values())
    return 1 + sum(map(nodes, value)) if isinstance(value, list) else 1


@given(VALUES, st.integers(0, 5), st.integers(1, 200))
def test_nodes_are_counted_with_aliases_written_out(
    value: object, aliases: int, budget: int
) -> None:
    text = "[&a " + json.dumps(value) + ", *a" * aliases + "]"
    reader = yaml_reader(max_nodes=budget)
    if 1 + (aliases + 1) * nodes(value) > budget:
        with pytest.raises(YAMLError):
            reader.load(text)
    else:
        assert reader.load(text) == [value] * (aliases + 1)


@pytest.mark.parametrize("typ", ["safe", "rt"])
def test_what_people_write_is_read(typ: str) -> None:
    text = "base: &b {a: 1}\nother: {<<: *b, c: 2}\nagain: [*b, *b]\nbase2: &b [3]\nlast: *b\n"
    value = yaml_reader("rt" if typ == "rt" else "safe").load(text)
    assert dict(value["other"]) == {"a": 1, "c": 2}
    assert list(value["last"]) == [3]
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert yaml_reader().load(deep) is not None
    assert yaml_reader().load("a: " + "1" * MAX_NUMBER)["a"] > 0
    assert len(yaml_reader().load("- a\n" * (MAX_NODES - 1))) == MAX_NODES - 1
