"""Consoles: what is a login prompt, what is a lost guest, and nothing that harms a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import SpecError
from imagekit.proof.console import Follower, clean, expectation, tail

BOOTED = b"""[    0.0] Linux version 6.1.0\r
[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mserial-getty@hvc0.service\x1b[0m.\r
\r
Debian GNU/Linux 12 web01 hvc0\r
\r
web01 login: """


def follow(path: Path, *pieces: bytes, up: str | None = None) -> list[str | None]:
    follower = Follower(path, expectation(up))
    signs = []
    path.touch()
    for piece in pieces:
        with path.open("ab") as stream:
            stream.write(piece)
        signs.append(follower.look())
    return signs


def test_a_guest_is_up_at_its_login_prompt_and_not_before(tmp_path: Path) -> None:
    pieces = [BOOTED[i : i + 7] for i in range(0, len(BOOTED), 7)]
    signs = follow(tmp_path / "c", *pieces)
    assert signs[-1] == "up"
    assert set(signs[:-1]) == {None}


@pytest.mark.parametrize(
    "text",
    [
        b"[ 3.1] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n",
        b"ALERT!  UUID=0f5e does not exist.  Dropping to a shell!\r\n",
        b"You are in emergency mode. After logging in, type\r\n",
        b"\r\n(initramfs) ",
        b"GNU GRUB  version 2.06\r\n\r\ngrub> ",
    ],
)
def test_a_guest_that_cannot_go_on_is_lost_at_once(tmp_path: Path, text: bytes) -> None:
    assert follow(tmp_path / "c", b"[ 0.0] Linux version\r\n" + text) == ["lost"]


def test_an_expectation_replaces_the_prompt(tmp_path: Path) -> None:
    assert follow(tmp_path / "c", BOOTED, b"\r\nREADY 7\r\n", up=r"^READY \d$") == [None, "up"]


def test_a_wrong_expectation_is_refused() -> None:
    with pytest.raises(SpecError, match="regular expression"):
        expectation("(")


def test_a_flood_does_not_grow_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c"
    follower = Follower(path, expectation(None))
    path.write_bytes(b"x" * (3 << 20) + b"\nweb login: ")
    signs = [follower.look() for _ in range(6)]
    assert "up" in signs
    assert len(follower._raw) <= Follower.WINDOW


@given(st.binary(max_size=300))
def test_clean_text_has_no_control_characters(data: bytes) -> None:
    text = clean(data)
    assert all(char in "\n\t" or ord(char) >= 32 for char in text)
    assert not any(0x7F <= ord(char) <= 0x9F for char in text)


def test_colours_and_titles_are_removed_without_their_letters() -> None:
    assert clean(b"\x1b]0;title\x07[\x1b[0;32m  OK  \x1b[0m]\x1b(B up\x1b[K") == "[  OK  ] up"


def test_a_tail_is_short_however_long_the_lines_are() -> None:
    lines = tail("\n".join("y" * 5000 for _ in range(50)), 20)
    assert len(lines) == 20
    assert max(map(len, lines)) == 300
