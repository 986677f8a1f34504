"""What the guided search keeps: few small inputs, each of which runs lines that no other does."""

from __future__ import annotations

from pathlib import Path

from fuzz import guided
from fuzz.target import Target
from fuzz.targets import TARGETS

DHCP = TARGETS["dhcp"]


def write(place: Path, *inputs: bytes) -> Path:
    place.mkdir(exist_ok=True)
    for number, data in enumerate(inputs):
        (place / str(number)).write_bytes(data)
    return place


def kept(place: Path) -> set[bytes]:
    return {path.read_bytes() for path in place.iterdir()}


def test_an_input_runs_lines_of_imagekit_alone() -> None:
    lines = guided.lines_of(DHCP, DHCP.valid[0])
    assert lines
    assert {Path(name).name for name, _ in lines} <= {"dhcp.py", "addresses.py"}
    assert lines != guided.lines_of(DHCP, b"short")


def test_what_runs_no_new_line_is_dropped_and_the_smallest_stays(tmp_path: Path) -> None:
    short, longer = b"short", b"a little longer, and refused for the same reason"
    found = write(tmp_path / "found", longer, short, *DHCP.valid)
    place = tmp_path / "kept"
    assert guided.keep(DHCP, found, place) == 1
    assert kept(place) == {short}


def test_what_was_kept_before_stays_while_it_is_needed(tmp_path: Path) -> None:
    place = write(tmp_path / "kept", b"short", b"a little longer, but short")
    no_cookie = DHCP.valid[0][:236] + b"\0" * 40
    assert guided.keep(DHCP, write(tmp_path / "found", no_cookie), place) == 2
    assert kept(place) == {b"short", no_cookie}


def test_large_inputs_are_not_kept(tmp_path: Path) -> None:
    found = write(tmp_path / "found", b"\0" * (guided.MOST_FILE_BYTES + 1))
    assert guided.keep(DHCP, found, tmp_path / "kept") == 0


def test_an_input_that_fails_now_is_kept_out(tmp_path: Path) -> None:
    def parse(data: bytes) -> bool:
        if data == b"bad":
            raise KeyError("planted")
        return True

    target = Target("planted", lambda: [b"x"], lambda _, data: data, parse)
    assert guided.keep(target, write(tmp_path / "found", b"bad", b"good"), tmp_path / "kept") == 0
