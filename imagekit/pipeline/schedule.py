"""Which stage may run next: one whose inputs are made. Several lanes draw from one schedule."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from imagekit.pipeline.lanes import Queue
from imagekit.pipeline.plan import Plan, Planned

WAIT = 0.1
"""Seconds after which a lane that has nothing to do looks whether another has failed."""


class Schedule(Queue[Planned]):
    """Gives out ``stages`` of ``plan``, in its order, each when those before it have returned."""

    def __init__(self, plan: Plan, stages: Sequence[Planned]) -> None:
        super().__init__(stages)
        ours = {planned.stage.name for planned in stages}
        self._open = {
            planned.stage.name: {plan.maker(n).stage.name for n in planned.stage.needs} & ours
            for planned in stages
        }
        self._changed = threading.Condition(self._lock)

    def __iter__(self) -> Iterator[Planned]:
        while (planned := self._take()) is not None:
            yield planned
            self._finish(planned.stage.name)

    def _take(self) -> Planned | None:
        with self._changed:
            while self:
                ready = next((p for p in self._items if not self._open[p.stage.name]), None)
                if ready is not None:
                    self._items.remove(ready)
                    return ready
                self._changed.wait(WAIT)
            return None

    def _finish(self, name: str) -> None:
        with self._changed:
            for others in self._open.values():
                others.discard(name)
            self._changed.notify_all()
