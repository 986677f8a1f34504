"""Random inputs for parsers: ``python -m tests.fuzz TARGET... [--cases N]``.

python -m tests.fuzz                            all targets, 1,000,000 inputs each
python -m tests.fuzz vhd qcow2 --cases 10000
python -m tests.fuzz vhd --number 4711          one input of those again, and its file
python -m tests.fuzz vhd --replay FILE          a file
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from .drive import run  # noqa: E402
from .target import Target  # noqa: E402
from .targets import TARGETS  # noqa: E402

RESULTS = ROOT / "build/fuzz"


def save(target: Target, number: int) -> Path:
    """Write the input ``number`` where it can be looked at."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{target.name}-{number}"
    path.write_bytes(target.input(number))
    return path


def main() -> int:
    """Run what was asked for; 1 when something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--number", type=int)
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    chosen = [TARGETS[name] for name in given.targets or TARGETS]
    if given.replay or given.number is not None:
        path = given.replay or save(chosen[0], given.number)
        print(f"{path}: past the header: {chosen[0].judge(path.read_bytes())}")
        return 0
    failed = False
    for target in chosen:
        result = run(target, given.cases, first=given.first)
        print(result, flush=True)
        for failure in result.failures:
            failed = True
            again = f"python -m tests.fuzz {target.name} --replay {save(target, failure.number)}"
            print(f"{failure.text}\nto run it again: {again}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
