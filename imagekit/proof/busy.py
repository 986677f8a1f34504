"""How much of the processor an emulated machine got, and when that was too little to judge by.

A guest that is late on a host that had no processor for it shows nothing about the guest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STARVED = 0.25
"""The share of a trial's time that, once stolen, leaves it without a verdict.

Measured on two processors: below 1 % is stolen of a lab on a quiet host, 13 to 35 % when the load
average is 4 to 8. Guests come up at that, too, and stolen time is not counted against them; but one
that is late, or whose firmware the emulation lost, may then be a sound one. A wrong "inconclusive"
costs another proof, a wrong "failed" the trust in all of them.
"""

STAT = Path("/proc/stat")
# Fields of the line "cpu", proc_stat(5): those in which a processor worked, and steal.
_WORKING = (0, 1, 2, 5, 6)
_STEAL = 7


def waited(pid: int) -> float:
    """Seconds in which the busiest thread of ``pid`` wanted a processor of this host and had none.

    Second field of /proc/PID/task/TID/schedstat (Linux Documentation/scheduler/sched-stats).
    """
    waits = [0]
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            waits.append(int(path.read_text().split()[1]))
    return max(waits) / 1e9


@dataclass(frozen=True)
class HostTime:
    """What this host's processors did since it started, in ticks of /proc/stat."""

    worked: int = 0
    stolen: int = 0

    def stolen_share(self, since: HostTime) -> float:
        """The share of their working time that the hypervisor below this host took, 0 to 1."""
        stolen = max(0, self.stolen - since.stolen)
        worked = max(0, self.worked - since.worked)
        return stolen / (stolen + worked) if stolen else 0.0


def host_time(path: Path = STAT) -> HostTime:
    """Read ``path``; all zero where a kernel has no such file or field."""
    try:
        line = path.read_text().split("\n", 1)[0].split()[1:]
        return HostTime(sum(int(line[n]) for n in _WORKING), int(line[_STEAL]))
    except (OSError, ValueError, IndexError):
        return HostTime()


@dataclass(frozen=True)
class Allotment:
    """Seconds that passed, and how many of them a machine stood still for want of a processor."""

    passed: float
    stolen: float

    @property
    def had(self) -> float:
        """Seconds that the machine really had."""
        return self.passed - self.stolen

    @property
    def starved(self) -> bool:
        """Whether what was seen in this time says nothing about the guest."""
        return self.stolen >= STARVED * self.passed > 0


class Stopwatch:
    """Measures from its making on; ``waits`` gives the machine's :func:`waited`, in seconds."""

    def __init__(
        self, waits: Callable[[], float], host: Callable[[], HostTime] = host_time
    ) -> None:
        self._waits = waits
        self._host = host
        self._started = time.monotonic()
        self._waited = waits()
        self._then = host()
        self._most = 0.0

    def read(self) -> Allotment:
        """What passed and what was stolen up to now; stolen time never goes back."""
        passed = time.monotonic() - self._started
        waited_for = min(passed, max(0.0, self._waits() - self._waited))
        below = self._host().stolen_share(self._then) * (passed - waited_for)
        self._most = min(passed, max(self._most, waited_for + below))
        return Allotment(passed, self._most)
