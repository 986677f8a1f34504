"""Work side by side: each lane has a machine of its own and takes the next piece in turn."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from imagekit.errors import HostError, ImagekitError, Interrupted

T = TypeVar("T")
_Begun = tuple[threading.Thread, threading.Event]
"""A lane, and what is set when it has returned."""


class Queue(Generic[T]):
    """What is still to be done; several lanes draw from it."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items = list(items)
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def __iter__(self) -> Iterator[T]:
        while (item := self._next()) is not None:
            yield item

    def __bool__(self) -> bool:
        return bool(self._items) and not self.ended.is_set()

    def _next(self) -> T | None:
        with self._lock:
            return self._items.pop(0) if self else None


def available_mib() -> int:
    """MiB of memory that the host can give (MemAvailable, proc_meminfo(5)); raises HostError."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    raise HostError("/proc/meminfo does not tell the free memory")


def lanes_for(guests: int, memory_mib: int, free_mib: int, jobs: int | None) -> int:
    """How many machines of ``memory_mib`` MiB run at once: as asked for, or one a processor.

    Never more than there are guests, nor than fit into half of what is free beyond the first.
    """
    wanted = jobs if jobs is not None else len(os.sched_getaffinity(0))
    room = 1 + max(0, free_mib - memory_mib) // (2 * memory_mib)
    return max(1, min(guests, wanted, room))


def run_lanes(
    queue: Queue[T],
    count: int,
    lane: Callable[[Queue[T]], None],
    stop: Callable[[], None],
) -> None:
    """Run ``lane(queue)`` ``count`` times side by side and wait for all of them.

    The first failure, or a signal, ends the others: ``queue.ended`` is set, ``stop`` is called to
    end what they wait for, and it is raised once all have returned. Each lane sees the context
    variables of the caller.
    """
    if count == 1:
        lane(queue)
        return
    failures: list[BaseException] = []
    # Not Thread.join(): a signal's exception makes it take a running thread for ended (Python's
    # issue 89437, in Debian's until 3.13).
    begun: list[_Begun] = []

    def one(over: threading.Event) -> None:
        try:
            lane(queue)
        except BaseException as error:
            failures.append(error)
            queue.ended.set()
        finally:
            over.set()

    try:
        for number in range(count):
            over, context = threading.Event(), contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(one, over), name=f"lane-{number}")
            # Before it starts: a signal may come as soon as it has.
            begun.append((thread, over))
            thread.start()
        while not failures and not _all(begun, 0.1):
            pass
    finally:
        _end(queue, begun, stop)
    if failures:
        raise _worst(failures)


def _end(queue: Queue[T], begun: Sequence[_Begun], stop: Callable[[], None]) -> None:
    """Wait for all lanes; more signals meanwhile (a second Ctrl-C) are raised afterwards."""
    signalled: BaseException | None = None
    over = False
    while not over:
        try:
            queue.ended.set()
            over = _all(begun, 0)
            if not over:
                stop()
                over = _all(begun, 0.2)
        except (KeyboardInterrupt, Interrupted) as error:
            signalled = error
    if signalled is not None:
        raise signalled


def _all(begun: Sequence[_Begun], seconds: float) -> bool:
    """Whether all have returned, within ``seconds`` each.

    One that a signal kept from starting has no number; if it starts yet, its queue has ended.
    """
    return all([thread.ident is None or over.wait(seconds) for thread, over in begun])


def _worst(failures: list[BaseException]) -> BaseException:
    """A bug before what the user is told, and of these the first."""
    bugs = [error for error in failures if not isinstance(error, ImagekitError)]
    return (bugs or failures)[0]
