"""What others wrote reaches the terminal as text, never as a command to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import ImageError, ToolError, printable

ACTING = {
    "a title": "\x1b]0;title\x07",
    "a colour": "\x1b[31mred",
    "an answer back": "\x1b[6n",
    "an 8 bit sequence": "\x9b31m",
    "a return to the margin": "all is well\rimagekit",
    "a step back": "no\b\byes",
    "another direction": "abc\u202etxt.exe",
    "an invisible mark": "a\u200bb",
    "a line of Unicode's": "a\u2028b",
}


@pytest.mark.parametrize("how", ACTING)
def test_nothing_that_acts_on_a_terminal_is_shown(how: str) -> None:
    text = ACTING[how]
    error = ToolError(f"it failed ({text})", where=text, hint=text, output=f"one\n{text}\n")
    assert all(c.isprintable() or c == "\n" for c in str(error))
    assert all(c.isprintable() or c == "\n" for c in str(ImageError(text, hint=text)))


@given(st.text())
def test_other_text_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert [c for c in shown if not c.isprintable() and ord(c) < 0xA0] == [
        c for c in text if c in "\t\n"
    ]


def test_tabs_lines_and_letters_of_all_tongues_stay() -> None:
    assert printable("Größe\tдюйм 磁盘\n") == "Größe\tдюйм 磁盘\n"
    assert printable("\x1b[0m") == "\\x1b[0m"
