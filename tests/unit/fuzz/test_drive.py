"""The driver of random inputs notices whatever a parser can do wrong."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import drive
from fuzz.drive import run
from fuzz.target import Target

from imagekit.errors import ImageError


def flip(source: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[source.randrange(len(data))] = source.randrange(256)
    return bytes(changed)


def target(parse: Callable[[bytes], bool], *shallow: str) -> Target:
    return Target("planted", lambda: [b"HEAD1234"], flip, parse, shallow)


def on(numbers: set[int], what: Callable[[], object]) -> Target:
    """A parser that does ``what`` for the inputs ``numbers``."""
    plain = target(lambda _: True)
    hit = {plain.input(number) for number in numbers}

    def parse(data: bytes) -> bool:
        if data in hit:
            what()
        return True

    return target(parse)


def test_inputs_are_the_same_every_time_and_differ() -> None:
    one = target(lambda _: True)
    again = [one.input(number) for number in range(50)]
    assert again == [one.input(number) for number in range(50)]
    assert len(set(again)) > 40


def test_inputs_past_the_header_are_counted() -> None:
    def parse(data: bytes) -> bool:
        if data[:4] != b"HEAD":
            raise ImageError("has no header", where="x")
        if data[4:] != b"1234":
            raise ImageError("is damaged", where="x")
        return True

    one = target(parse, "no header")
    deep = sum(one.input(number)[:4] == b"HEAD" for number in range(400))
    result = run(one, 400)
    assert (result.inputs, result.deep, result.failures) == (400, deep, [])
    assert 0 < deep < 400
    assert result.share == deep / 400


def raising() -> None:
    raise KeyError("planted")


def test_a_foreign_exception_is_a_failure_with_its_input() -> None:
    result = run(on({7, 30}, raising), 100)
    assert [failure.number for failure in result.failures] == [7, 30]
    assert "KeyError: 'planted'" in result.failures[0].text
    assert result.inputs == 100


def test_an_allowed_error_is_none_and_another_is() -> None:
    def refuse() -> None:
        raise ImageError("no", where="x")

    assert run(on({3}, refuse), 10).failures == []


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_of_the_process_ends_one_child(number: signal.Signals) -> None:
    result = run(on({5, 20}, lambda: os.kill(os.getpid(), number)), 50)
    assert [(f.number, f.text) for f in result.failures] == [
        (5, f"the process died: {number.name}"),
        (20, f"the process died: {number.name}"),
    ]
    assert result.inputs == 50


def test_an_endless_loop_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "CPU_SECONDS", 0.2)

    def loop() -> None:
        while True:
            pass

    result = run(on({2}, loop), 10)
    assert [failure.number for failure in result.failures] == [2]
    assert "processor time" in result.failures[0].text
    assert result.inputs == 10


def test_too_much_memory_is_a_failure_and_less_is_measured() -> None:
    result = run(on({4}, lambda: bytearray(256 << 20)), 10, memory=128 << 20)
    assert [failure.number for failure in result.failures] == [4]
    assert "MemoryError" in result.failures[0].text
    result = run(on({4}, lambda: bytearray(b"x") * (64 << 20)), 10, memory=128 << 20)
    assert result.failures == []
    assert result.memory_kib > 48 << 10


def test_many_failures_end_the_run() -> None:
    result = run(on(set(range(100)), raising), 100)
    assert len(result.failures) == drive.MOST_FAILURES
    assert result.inputs < 100


def test_a_run_can_begin_where_another_ended() -> None:
    one = on({7, 30}, raising)
    assert [f.number for f in run(one, 20, first=20).failures] == [30]


def test_nothing_is_left_of_a_run() -> None:
    def children() -> set[str]:
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # proc_pid_stat(5): PID (NAME) STATE PARENT
                pid, rest = path.parent.name, path.read_text().rpartition(")")[2].split()
                found |= {pid} if int(rest[1]) == os.getpid() else set()
        return found

    before = len(list(Path("/proc/self/fd").iterdir())), children()
    run(on({1}, lambda: os._exit(3)), 5)
    assert (len(list(Path("/proc/self/fd").iterdir())), children()) == before
