"""``make boots``: proves the demo image again and again on a busy host, and prints what came of it.

Each round boots the image once as PV, PVH and HVM with as many busy loops beside it as asked for.
The results go to a file, one JSON object a line, so that a run that was stopped goes on where it
was; the table at the end counts all of them. Exit status 1 unless every guest was up in its first
attempt without a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from imagekit.proof.report import read_proof

ROOT = Path(__file__).parents[2]
MODES = ("pv", "pvh", "hvm")
LOOP = "while True: pass"


@dataclass(frozen=True)
class Result:
    """One boot: seconds from ``xl create`` to the login prompt, None if it was not up."""

    round: int
    mode: str
    boot: str
    outcome: str
    attempts: int
    findings: int
    seconds: float | None
    stolen_seconds: float

    @property
    def good(self) -> bool:
        """Up in the first attempt, with nothing on its console that should not be there."""
        return self.outcome == "up" and self.attempts == 1 and self.findings == 0


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep processors of the host busy for the length of a block."""
    with ExitStack() as stack:
        for _ in range(loops):
            child = subprocess.Popen([sys.executable, "-c", LOOP])
            stack.callback(child.wait)
            stack.callback(child.kill)
        yield


def one_round(build: Path, number: int, jobs: int | None) -> list[Result]:
    """Prove ``build`` once; raises CalledProcessError when there is no report at all."""
    report = build / "proof.json"
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "imagekit", "prove", str(build)]
    argv += [word for mode in MODES for word in ("--mode", mode)]
    argv += ["--jobs", str(jobs)] if jobs else []
    done = subprocess.run(argv, capture_output=True, text=True)
    if not report.is_file():
        raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
    return [
        Result(
            number,
            boot.mode,
            boot.boot,
            boot.outcome,
            boot.attempts,
            len(boot.findings),
            boot.seconds,
            boot.stolen_seconds,
        )
        for boot in read_proof(build).boots
    ]


def table(results: Sequence[Result]) -> str:
    """A row for each mode and boot path, in Markdown."""
    lines = [
        "| mode | boot | boots | up at first | findings | seconds (least, median, most) |",
        "|---|---|---|---|---|---|",
    ]
    for mode, boot in dict.fromkeys((r.mode, r.boot) for r in results):
        rows = [r for r in results if (r.mode, r.boot) == (mode, boot)]
        first = sum(r.outcome == "up" and r.attempts == 1 for r in rows)
        took = [r.seconds for r in rows if r.seconds is not None]
        times = [min(took), statistics.median(took), max(took)] if took else []
        words = ", ".join(f"{t:.0f}" for t in times) or "-"
        found = sum(r.findings for r in rows)
        lines.append(f"| {mode} | {boot} | {len(rows)} | {first} | {found} | {words} |")
    good = sum(r.good for r in results)
    return "\n".join([*lines, "", f"{good} of {len(results)} up in the first attempt, no finding"])


def read(path: Path) -> list[Result]:
    """The results of an earlier run."""
    if not path.is_file():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines() if line]


def main() -> int:
    """Run the rounds that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="busy loops beside the guests")
    parser.add_argument("--jobs", type=int, help="guests at a time (default: prove's own)")
    parser.add_argument("--build", type=Path, help="a build (default: the demo, made now)")
    parser.add_argument("--results", type=Path, default=Path("build/boots.jsonl"))
    chosen = parser.parse_args()
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    results = read(chosen.results)
    with ExitStack() as stack:
        build = chosen.build
        if build is None:
            build = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "web01"
            spec = ROOT / "examples/web01.yaml"
            argv = [sys.executable, "-m", "imagekit", "build", str(spec), "-o", str(build)]
            subprocess.run(argv, check=True)
        stack.enter_context(busy(chosen.busy))
        for number in range(len({r.round for r in results}) + 1, chosen.rounds + 1):
            made = one_round(build, number, chosen.jobs)
            results += made
            with chosen.results.open("a") as stream:
                stream.writelines(f"{json.dumps(asdict(result))}\n" for result in made)
            words = " ".join(f"{r.mode}:{r.outcome}:{r.seconds or 0:.0f}s" for r in made)
            print(f"round {number}: {words}", flush=True)
    print(f"{os.cpu_count()} processors, {chosen.busy} busy loops\n\n{table(results)}")
    return 0 if results and all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
