"""Runs a target over many inputs in a child with bounds, so that nothing it does ends the tests.

The child has limits of memory and of processor time for each input. When it dies, by a crash in a
C library too, the input that did it is known, and another child goes on behind it.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import resource
import signal
import struct
import time
import traceback
from dataclasses import dataclass, field

from .target import Target

MEMORY = 512 << 20
"""Address space in bytes that a child may take beyond what it began with."""
CPU_SECONDS = 10.0
"""Processor time of one input, after which the child is killed."""
MOST_FAILURES = 10
_STATE = struct.Struct("=QQdQ")


@dataclass(frozen=True)
class Failure:
    """The input ``number`` (see Target.input) and what came of it."""

    number: int
    text: str


@dataclass
class Result:
    """``deep`` inputs of ``inputs`` got past the header.

    ``slowest`` is the processor time of one input in seconds, ``memory_kib`` how much the
    resident memory of a child grew at most, ``seconds`` the whole run by the clock.
    """

    name: str
    inputs: int = 0
    deep: int = 0
    slowest: float = 0.0
    memory_kib: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Which share of the inputs got past the header, 0 to 1."""
        return self.deep / self.inputs if self.inputs else 0.0

    def __str__(self) -> str:
        return (
            f"{self.name:22} {self.inputs:>9} inputs, {self.share:6.1%} past the header, "
            f"{self.memory_kib / 1024:6.1f} MiB, {self.slowest * 1000:7.1f} ms at worst, "
            f"{self.seconds:6.0f} s, {len(self.failures)} failures"
        )


def run(target: Target, cases: int, *, first: int = 0, memory: int = MEMORY) -> Result:
    """Parse the inputs ``first`` to ``first + cases - 1``; ends early at MOST_FAILURES."""
    started = time.monotonic()
    result = Result(target.name)
    # The seeds are made here: making some takes programs.
    assert target.valid, "a target needs a seed"
    number, end = first, first + cases
    while number < end and len(result.failures) < MOST_FAILURES:
        number = _one_child(target, number, end, memory, result)
    result.seconds = time.monotonic() - started
    return result


def _one_child(target: Target, first: int, end: int, memory: int, result: Result) -> int:
    """Run one child; the number of the next input."""
    state = mmap.mmap(-1, _STATE.size)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _child(target, first, end, memory, state, writer)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as told:
        for line in told:
            result.failures.append(Failure(**json.loads(line)))
    _, status = os.waitpid(pid, 0)
    done: int
    done, deep, slowest, memory_kib = _STATE.unpack_from(state)
    state.close()
    result.deep += deep
    result.slowest = max(result.slowest, slowest)
    result.memory_kib = max(result.memory_kib, memory_kib)
    code = os.waitstatus_to_exitcode(status)
    if code:
        result.failures.append(Failure(first + done, _died(code)))
        done += 1
    result.inputs += done
    return first + done


def _died(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"it took more than {CPU_SECONDS:.0f} seconds of processor time"
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return f"the process died: {name}"


def _child(
    target: Target, first: int, end: int, memory: int, state: mmap.mmap, writer: int
) -> None:
    """Parse inputs; ``state`` holds how many were done, were deep, slowest, most memory."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bound = _address_space() + memory
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    gc.freeze()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source, deep, slowest, failed = random.Random(), 0, 0.0, 0
    clock, usage, own = time.process_time, resource.getrusage, resource.RUSAGE_SELF
    for number in range(first, end):
        data = target.input(number, source)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        started = clock()
        try:
            deep += target.judge(data)
        except Exception:
            line = {"number": number, "text": traceback.format_exc(limit=-6)}
            os.write(writer, json.dumps(line).encode() + b"\n")
            failed += 1
        slowest = max(slowest, clock() - started)
        grown = usage(own).ru_maxrss - before
        _STATE.pack_into(state, 0, number - first + 1, deep, slowest, max(grown, 0))
        if failed >= MOST_FAILURES:
            return


def _address_space() -> int:
    """Bytes of address space of this process (proc(5), statm)."""
    with open("/proc/self/statm") as stream:  # noqa: PTH123 - in a child, little as possible
        return int(stream.read().split()[0]) * resource.getpagesize()
