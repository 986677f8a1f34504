"""The table of the aims: right sums, and nothing called met that was not measured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from bench import aims
from bench.__main__ import Row, earlier, measure, rows_of, run_rows
from bench.aims import AIMS, Aim, Measured, Unit, aims_table, table, with_needed
from bench.builders import Bench, used
from hypothesis import given
from hypothesis import strategies as st


def measured(**values: float | None) -> dict[str, Measured]:
    return {name: Measured(name, value, "failed: why") for name, value in values.items()}


AIM = Aim("work", "own", "base", 0.25)


@pytest.mark.parametrize(
    ("values", "ratio", "verdict"),
    [
        ({"own": 1.0, "base": 4.0}, 0.25, "met"),
        ({"own": 1.01, "base": 4.0}, 0.2525, "not met"),
        ({"own": 1.0}, None, "not measured: base"),
        ({}, None, "not measured: own, base"),
        ({"own": None, "base": 4.0}, None, "own: failed: why"),
        ({"own": 1.0, "base": None}, None, "base: failed: why"),
        ({"own": 1.0, "base": 0.0}, None, "not measured: "),
    ],
)
def test_an_aim_is_met_up_to_its_ratio_and_only_by_numbers(
    values: dict[str, float | None], ratio: float | None, verdict: str
) -> None:
    found = measured(**values)
    assert AIM.ratio(found) == (pytest.approx(ratio) if ratio else None)
    assert AIM.verdict(found) == verdict


def test_an_aim_without_a_base_is_of_the_row_itself() -> None:
    aim = Aim("work", "own", None, 2.0)
    assert aim.ratio(measured(own=1.5)) == 1.5
    assert aim.verdict(measured(own=2.5)) == "not met"
    assert aim.verdict({}) == "not measured: own"


def test_seconds_and_bytes_have_no_ratio() -> None:
    units: tuple[tuple[str, Unit], ...] = (("own", "s"), ("base", "B"))
    assert AIM.ratio({name: Measured(name, 1.0, "", unit) for name, unit in units}) is None


def test_every_aim_has_its_line_and_its_rows_can_be_run(tmp_path: Path) -> None:
    lines = aims_table({}).splitlines()
    assert len(lines) == 1 + len(AIMS)
    names = [row.name for row in rows_of(Bench(tmp_path))]
    assert {aim.row for aim in AIMS} | {aim.against for aim in AIMS} <= {*names, None}
    for row in rows_of(Bench(tmp_path)):
        assert set(row.needs) <= set(names[: names.index(row.name)]), row.name


def test_the_tables_say_the_numbers() -> None:
    rows = [Measured("a", 1.5, "raw"), Measured("b", None, "not installed: b")]
    text = table("builders", rows, 3.0)
    assert "1.50 s   0.50  raw" in text
    assert "-      -  not installed: b" in text
    found = {
        aims.COLD: Measured(aims.COLD, 28.6, ""),
        aims.PEER: Measured(aims.PEER, 67.7, ""),
        aims.STORE_ONE: Measured(aims.STORE_ONE, 1e9, "", "B"),
        aims.STORE_TEN: Measured(aims.STORE_TEN, 2e9, "", "B"),
    }
    lines = aims_table(found).splitlines()
    assert lines[1].split()[-4:] == ["0.42", "0.25", "not", "met"]
    assert lines[-1].split()[-3:] == ["2.00", "3.00", "met"]


@given(st.lists(st.integers(0, 7), max_size=8))
def test_what_is_needed_comes_before_and_once(wanted: list[int]) -> None:
    needs = {str(n): [str(n // 2)] if n else [] for n in range(8)}
    found = with_needed([str(n) for n in wanted], needs)
    assert {str(n) for n in wanted} <= set(found)
    assert len(set(found)) == len(found)
    for position, name in enumerate(found):
        assert set(needs[name]) <= set(found[:position])


def test_a_row_that_fails_has_no_value_and_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> str:
        raise subprocess.CalledProcessError(1, ["x"], "", "first\nwhy it failed\n")

    def absent() -> str:
        raise FileNotFoundError(2, "No such file", "xen-create-image")

    calls: list[str] = []

    def good() -> str:
        calls.append("good")
        return "made"

    rows = [Row("bad", fails), Row("absent", absent), Row("good", good, times=3)]
    assert measure(rows[0]).result == "failed: why it failed"
    assert measure(rows[1]).result == "not installed: xen-create-image"
    sized = measure(Row("size", good, size=lambda: 4096))
    assert (sized.value, sized.unit, sized.result) == (4096, "B", "made")
    monkeypatch.setattr("bench.__main__.rows_of", lambda _bench: rows)
    results = tmp_path / "results"
    calls.clear()
    first = run_rows(Bench(tmp_path), ["bad", "good"], results)
    assert set(first) == {"bad", "good"}
    assert len(calls) == 3
    assert set(earlier(results)) == {"good"}
    again = run_rows(Bench(tmp_path), ["bad", "good"], results)
    assert again["good"] == first["good"]
    assert len(calls) == 3
    assert len(results.read_text().splitlines()) == 3


def test_a_store_is_counted_as_du_counts_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/file").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "below/file", tmp_path / "second")
    argv: list[str | Path] = ["du", "-s", "-B1", tmp_path]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[0]
    own = tmp_path.stat().st_blocks * 512
    assert used(tmp_path) == int(told) - own
