"""The table of many boots counts what is good and hides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from bench.boots import Result, busy, read, table


def result(number: int, mode: str = "pv", **changes: object) -> Result:
    values: dict[str, object] = {
        **{"round": number, "mode": mode, "boot": "pygrub", "outcome": "up", "attempts": 1},
        **{"findings": 0, "seconds": 40.0 + number, "stolen_seconds": 1.0},
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def test_the_table_counts_each_mode() -> None:
    rows = [result(1), result(2, attempts=2), result(3, outcome="failed", seconds=None)]
    text = table([*rows, result(1, "hvm", boot="firmware", findings=2)])
    assert "| pv | pygrub | 3 | 1 | 0 | 41, 42, 42 |" in text
    assert "| hvm | firmware | 1 | 1 | 2 | 41, 41, 41 |" in text
    assert text.endswith("1 of 4 up in the first attempt, no finding")


@pytest.mark.parametrize(
    "changes",
    [{"outcome": "inconclusive"}, {"attempts": 2}, {"findings": 1}, {"outcome": "failed"}],
)
def test_only_a_clean_first_attempt_is_good(changes: dict[str, Any]) -> None:
    assert result(1).good
    assert not result(1, **changes).good


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "boots.jsonl"
    assert read(path) == []
    path.write_text("".join(f"{json.dumps(asdict(result(n)))}\n" for n in (1, 2)))
    assert read(path) == [result(1), result(2)]


def test_busy_loops_end_with_the_block() -> None:
    children = Path("/proc/self/task") / Path("/proc/thread-self").readlink().name / "children"
    before = set(children.read_text().split())
    with busy(2):
        during = set(children.read_text().split())
    assert len(during - before) == 2
    assert not (set(children.read_text().split()) - before)
