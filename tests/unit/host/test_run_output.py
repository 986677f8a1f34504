"""A program that prints without end is stopped; what it printed stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.errors import ToolError
from imagekit.host.run import LONGEST_LINE, LONGEST_TAIL, run

MIB = 1 << 20
ENDLESS = {
    "lines": ["yes", "x" * 100],
    "one line": ["cat", "/dev/zero"],
    "on both": ["sh", "-c", "yes $0 & yes $0 >&2", "x" * 100],
    "after the first has ended": ["sh", "-c", "yes $0 & exit 0", "x" * 100],
}


@pytest.mark.parametrize("how", ENDLESS)
def test_endless_output_is_stopped_and_the_log_bounded(tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    with pytest.raises(ToolError, match="the step printed more than 2 MiB and was stopped") as it:
        run(ENDLESS[how], timeout=60, log=log, what="the step", output_limit=2 * MIB)
    assert 0 < log.stat().st_size <= 2 * MIB
    assert len(it.value.output) <= 4 * LONGEST_TAIL
    assert str(log) in str(it.value.hint)


def test_output_up_to_the_limit_is_whole(tmp_path: Path) -> None:
    argv = ["head", "-c", str(MIB), "/dev/zero"]
    done = run(argv, timeout=60, log=tmp_path / "log", output_limit=MIB)
    assert done.stdout == bytes(MIB)
    assert (tmp_path / "log").read_bytes() == bytes(MIB)


def test_a_line_longer_than_any_comes_in_parts_and_stays_whole() -> None:
    lines: list[str] = []
    size = 2 * LONGEST_LINE + 5
    done = run(["sh", "-c", f"head -c {size} /dev/zero; echo; echo end"], on_line=lines.append)
    assert done.stdout == bytes(size) + b"\nend\n"
    assert [len(line) for line in lines] == [LONGEST_LINE, LONGEST_LINE, 5, 3]


def test_an_error_shows_the_end_of_the_output_alone() -> None:
    script = f"head -c {MIB} /dev/zero | tr '\\0' x; echo; echo last; exit 3"
    with pytest.raises(ToolError) as caught:
        run(["sh", "-c", script])
    assert len(caught.value.output) <= LONGEST_TAIL
    assert caught.value.output.endswith("x\nlast\n")
