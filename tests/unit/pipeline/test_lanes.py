"""Guests proven side by side: each once, and all ended when one lane fails."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import ToolError
from imagekit.pipeline.lanes import Queue, lanes_for, run_lanes


@given(st.lists(st.integers(), max_size=40), st.integers(1, 4))
def test_every_guest_is_taken_once_by_one_lane(items: list[int], count: int) -> None:
    taken: list[int] = []
    run_lanes(Queue(items), count, taken.extend, lambda: None)
    assert sorted(taken) == sorted(items)


def test_lanes_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def lane(queue: Queue[int]) -> None:
        for _item in queue:
            meeting.wait()

    run_lanes(Queue([1, 2, 3]), 3, lane, lambda: None)
    assert not meeting.broken


@pytest.mark.parametrize("error", [ToolError("the lab ended"), ValueError("a bug")])
def test_a_failing_lane_ends_the_others_and_is_reported(error: Exception) -> None:
    stopped = threading.Event()
    begun: list[int] = []

    def lane(queue: Queue[int]) -> None:
        for item in queue:
            begun.append(item)
            if item == 1:
                raise error
            assert stopped.wait(10)
            raise ToolError("the lab ended because it was told to")

    started = time.monotonic()
    with pytest.raises(type(error), match=str(error)):
        run_lanes(Queue([0, 1, 2, 3]), 2, lane, stopped.set)
    assert begun == [0, 1]
    assert time.monotonic() - started < 60


def interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def test_a_signal_is_raised_when_every_lane_has_returned() -> None:
    stopped, returned, ended = threading.Event(), threading.Event(), []
    waiting = threading.Barrier(3)

    def lane(queue: Queue[int]) -> None:
        for item in queue:
            waiting.wait(10)
            assert stopped.wait(10)
            assert not returned.wait(0.3)
            ended.append(item)

    def shoot() -> None:
        waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        shooter = threading.Thread(target=shoot)
        shooter.start()
        with pytest.raises(KeyboardInterrupt):
            run_lanes(Queue([1, 2, 3]), 2, lane, stopped.set)
        returned.set()
        shooter.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(ended) == [1, 2]


@given(st.integers(1, 50), st.integers(512, 1 << 16), st.integers(0, 1 << 20), st.integers(1, 99))
def test_lanes_never_take_more_than_the_memory_or_the_guests(
    guests: int, memory: int, free: int, jobs: int
) -> None:
    count = lanes_for(guests, memory, free, jobs)
    assert 1 <= count <= min(guests, jobs)
    assert count == 1 or count * memory <= free
    assert lanes_for(guests, memory, free, None) >= 1
