"""QEMU's machine protocol, however the bytes arrive."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import ToolError
from imagekit.vm.qmp import MAX_MESSAGE, Messages

messages = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3))


@given(messages, st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_the_same_however_the_bytes_are_cut(
    sent: list[dict[str, str]], sizes: list[int]
) -> None:
    data = b"".join(json.dumps(message).encode() + b"\r\n" for message in sent)
    reader, found, place = Messages(), [], 0
    while place < len(data):
        size = sizes[place % len(sizes)]
        found += reader.feed(data[place : place + size])
        place += size
    assert found == sent


@given(st.binary(max_size=200))
def test_nonsense_is_an_error_or_no_message_and_never_a_crash(data: bytes) -> None:
    with contextlib.suppress(ToolError):
        assert all(isinstance(message, dict) for message in Messages().feed(data + b"\n"))


def test_a_message_without_an_end_is_given_up() -> None:
    reader = Messages()
    with pytest.raises(ToolError, match="8 MiB"):
        for _ in range(MAX_MESSAGE // (1 << 20) + 1):
            reader.feed(b"x" * (1 << 20))
