"""Stages that do not need each other run at the same time, and end together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import ImagekitError, ToolError
from imagekit.host.run import children_see, run
from imagekit.pipeline import execute as module
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.lanes import Queue, run_lanes
from imagekit.pipeline.plan import Plan, Planned, make_plan
from imagekit.pipeline.schedule import Schedule
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_file
from imagekit.pipeline.store import Store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    return tmp_path / "cache"


class Doing(Stage):
    """Does ``what`` and makes one file, of its inputs and its own name."""

    title = "doing"

    def __init__(
        self, name: str, needs: tuple[str, ...] = (), what: Callable[[StageRun], Any] = id
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.needs = needs
        self.makes = (name,)
        self.what = what

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, run: StageRun) -> None:
        self.what(run)
        text = "".join(run.inputs[n].read_text() for n in self.needs)
        (run.output / self.makes[0]).write_text(f"{text}{self.name} ")


def plan_of(*stages: Stage, variables: Mapping[str, str | None] | None = None) -> Plan:
    needed = {n for stage in stages for n in stage.needs}
    last = [n for stage in stages for n in stage.makes if n not in needed]
    return make_plan(stages, [Target(n, n, "disk") for n in last], variables)


def perform(plan: Plan, seen: list[Event] | None = None) -> dict[str, StageResult]:
    def see(event: Event) -> None:
        if seen is not None:
            seen.append(event)

    events = Events([see])
    return execute(plan, Store(), events, guest="g", fresh=False, digest=digest_file)


def test_two_formats_are_written_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(_run: StageRun) -> None:
        meeting.wait()

    results = perform(
        plan_of(Doing("disk"), Doing("a", ("disk",), meet), Doing("b", ("disk",), meet))
    )
    assert list(results) == ["disk", "a", "b"]
    assert results["b"].entry.files["b"].read_text() == "disk b "


def test_the_variables_of_a_plan_are_seen_in_every_lane() -> None:
    said: list[str] = []

    def say(_run: StageRun) -> None:
        said.append(run(["sh", "-c", "echo $SOURCE_DATE_EPOCH$OUTER"]).text)

    plan = plan_of(Doing("a", (), say), Doing("b", (), say), variables={"SOURCE_DATE_EPOCH": "7"})
    with children_see({"OUTER": "8"}):
        perform(plan)
    assert said == ["78\n", "78\n"]


def test_a_failure_ends_the_others_children_and_is_what_is_told(cache: Path) -> None:
    begun = threading.Event()
    seen: list[Event] = []

    def fail(_run: StageRun) -> None:
        assert begun.wait(20)
        raise ImagekitError("the disk is too small")

    def last(run_: StageRun) -> None:
        run(
            ["sh", "-c", "echo x; sleep 1000"],
            on_line=lambda _line: begun.set(),
            log=run_.logs / "l",
        )

    plan = plan_of(Doing("a", (), fail), Doing("b", (), last), Doing("c", ("b",)))
    with pytest.raises(ImagekitError, match="too small"):
        perform(plan, seen)
    told = [
        (e.kind, e.fields["stage"]) for e in seen if e.kind in ("stage-failed", "stage-stopped")
    ]
    assert told == [("stage-failed", "a"), ("stage-stopped", "b")]
    assert list((cache / "store/tmp").iterdir()) == list((cache / "work").iterdir()) == []
    assert list((cache / "store/objects").iterdir()) == []


def test_one_that_only_counts_stops_at_its_next_progress() -> None:
    begun = threading.Event()

    def fail(_run: StageRun) -> None:
        assert begun.wait(20)
        raise ToolError("mke2fs failed")

    def count(run_: StageRun) -> None:
        begun.set()
        while True:
            run_.progress(1, 2)

    with pytest.raises(ToolError, match="mke2fs"):
        perform(plan_of(Doing("a", (), fail), Doing("b", (), count)))


def test_ctrl_c_ends_all_lanes_also_when_it_comes_twice(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Barrier(3, timeout=20)
    pressed = iter(range(2))
    original = threading.Thread.join

    def wait(_run: StageRun) -> None:
        begun.wait()
        run(["sleep", "1000"])

    def join(self: threading.Thread, timeout: float | None = None) -> None:
        if self.name.startswith("lane-") and (number := next(pressed, None)) is not None:
            if number == 0:
                begun.wait()
            raise KeyboardInterrupt
        original(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        perform(plan_of(Doing("a", (), wait), Doing("b", (), wait)))
    assert [t.name for t in threading.enumerate() if t.name.startswith("lane-")] == []
    assert list((cache / "store/tmp").iterdir()) == list((cache / "work").iterdir()) == []


@given(
    st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=12), st.integers(1, 4)
)
def test_every_stage_runs_once_and_after_what_it_needs(needs: list[set[int]], count: int) -> None:
    stages = [
        Doing(str(n), tuple(str(other) for other in others if other < n))
        for n, others in enumerate(needs)
    ]
    plan = plan_of(*stages)
    schedule = Schedule(plan, plan.stages)
    order: list[str] = []
    lock = threading.Lock()

    def lane(queue: Any) -> None:
        for planned in queue:
            with lock:
                assert set(planned.stage.needs) <= set(order)
                order.append(planned.stage.name)

    run_lanes(schedule, count, lane, lambda: None)
    assert sorted(order) == sorted(stage.name for stage in stages)


def test_a_stored_plan_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    perform(plan_of(Doing("a"), Doing("b")))
    counts: list[int] = []

    def noted(queue: Queue[Planned], count: int, *others: Any) -> None:
        counts.append(count)
        run_lanes(queue, count, *others)

    monkeypatch.setattr(module, "run_lanes", noted)
    perform(plan_of(Doing("a"), Doing("b")))
    assert counts == [1]
