"""The machine an installer runs in, and what its words are taken for."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.answers.context import Static
from imagekit.errors import SpecError, ToolError
from imagekit.installs.machine import Hardware, Machine, Running, clean, readable
from imagekit.installs.unattended import QUESTION_SECONDS, Limits, _check, _Watch
from imagekit.vm.handed import Handed


def argv(**changes: object) -> str:
    base = {"media": Path("/a,b.iso"), "disk": Path("/d"), "memory": 512, "kvm": False, **changes}
    return " ".join(Hardware(**base).argv(Handed()))  # type: ignore[arg-type]


def test_disks_have_their_format_named_and_are_given_open() -> None:
    line = argv()
    assert "file=/dev/fdset/1,format=raw," in line and "readonly=on" in line
    assert "file=/dev/fdset/2,format=raw," in line
    assert line.count("format=raw") == 2 and "-no-reboot" in line


@pytest.mark.parametrize(
    ("static", "option"),
    [
        (
            Static("192.0.2.10", "255.255.255.0", 24, "192.0.2.1", ("192.0.2.53",), 4),
            "user,id=net,net=192.0.2.0/24,host=192.0.2.1,dhcpstart=192.0.2.10,dns=192.0.2.53",
        ),
        (
            Static("192.0.2.10", "255.255.255.0", 24, "192.0.2.1", ("198.51.100.1",), 4),
            "user,id=net,net=192.0.2.0/24,host=192.0.2.1,dhcpstart=192.0.2.10",
        ),
        (
            Static("2001:db8::5", "", 64, "2001:db8::1", (), 6),
            "user,id=net,ipv6-net=2001:db8::/64,ipv6-host=2001:db8::1",
        ),
        (None, "user,id=net"),
    ],
)
def test_a_fixed_address_finds_its_gateway_in_the_machines_network(
    static: Static | None, option: str
) -> None:
    assert f"-netdev {option} " in argv(static=static)


def test_a_gateway_outside_the_network_is_refused() -> None:
    with pytest.raises(SpecError):
        argv(static=Static("192.0.2.10", "255.255.255.0", 24, "198.51.100.1", (), 4))


def watched(*lines: str) -> tuple[list[str], str | None]:
    notes: list[str] = []
    watch = _Watch(notes.append)
    for line in lines:
        watch.line("console", line)
    return notes, watch.failure[1] if watch.failure else None


def test_steps_are_told_once() -> None:
    line = "Nov 21 08:00:00 main-menu[123]: INFO: Menu item 'netcfg' selected"
    notes, failure = watched(line, line, "imagekit: answers taken", "nothing of note")
    assert notes == [
        "installer: netcfg",
        "installer: imagekit: answers taken"[:11] + "answers taken",
    ]
    assert failure is None


@pytest.mark.parametrize(
    "line",
    [
        "  !! ERROR: Installation step failed",
        "[!!] Install the base system Debootstrap Error",
        "The following error occurred while parsing the kickstart file",
        "Kernel panic - not syncing: VFS: Unable to mount root fs",
        "Could not boot image: Connection reset (http://ipxe.org/0f0a6039)",
        "No bootable device.",
        "tar: write error: No space left on device",
    ],
)
def test_screens_of_failure_are_recognised(line: str) -> None:
    assert watched(line)[1] is not None


@given(st.binary(max_size=400), st.integers(1, 5))
def test_anything_on_a_console_becomes_printable_lines(data: bytes, lines: int) -> None:
    text = readable(data, lines)
    assert len(text.split("\n")) <= lines or not text
    assert all(c.isprintable() or c in "\n\t" for c in text)


def test_terminal_control_is_taken_out() -> None:
    assert clean("\x1b[2J\x1b[1;31mError\x1b[0m\x07") == "Error"


@pytest.fixture
def line(tmp_path: Path) -> tuple[Machine, socket.socket]:
    """A machine whose console we are, and the console."""
    ours, theirs = {}, {}
    for name in ("console", "syslog", "monitor"):
        ours[name], theirs[name] = socket.socketpair()
    no_process: Any = None
    running = Running(no_process)
    made = Machine(running, ours, tmp_path, lambda _n, _t: None, lambda t: t.replace("pw", "***"))
    return made, theirs["console"]


@pytest.mark.parametrize(("idle", "found"), [(0.0, False), (QUESTION_SECONDS + 1, True)])
def test_a_question_that_waits_ends_the_run_with_its_words(
    line: tuple[Machine, socket.socket], tmp_path: Path, idle: float, found: bool
) -> None:
    machine, console = line
    console.sendall(b"region:\r\n  1: Africa,  2: Asia,\r\nPrompt: '?' for help> ")
    machine.step(1.0)
    machine.running.active = time.monotonic() - idle
    limits = Limits(9999, 9999)
    if found:
        with pytest.raises(ToolError, match="asks a question") as caught:
            _check(machine, _Watch(print), limits, time.monotonic(), tmp_path)
        assert "region:" in caught.value.output and "install.template" in str(caught.value.hint)
    else:
        _check(machine, _Watch(print), limits, time.monotonic(), tmp_path)


def test_a_clock_on_the_screen_is_no_sign_of_life(
    line: tuple[Machine, socket.socket],
) -> None:
    machine, console = line
    seen = []
    for text in ("[ 1 shell ][ Nov 21  9:26 ]\r\n", "[ 1 shell ][ Nov 21  9:27 ]\r\n", "Next\n"):
        machine.running.active = 0.0
        console.sendall(text.encode())
        machine.step(0.2)
        seen.append(machine.running.active > 0)
    assert seen == [True, False, True]


def test_secrets_are_taken_out_of_logs_also_when_they_come_in_pieces(
    line: tuple[Machine, socket.socket], tmp_path: Path
) -> None:
    machine, console = line
    for piece in (b"user:p", b"w done\nprompt p", b"w"):
        console.sendall(piece)
        machine.step(0.2)
    machine.flush()
    assert (tmp_path / "console.log").read_text() == "user:*** done\nprompt ***"
