"""``make fuzz-long``: atheris searches one target by coverage.

What it finds beyond the seeds is kept small in tests/fuzz/corpus/TARGET; inputs that end in a
foreign exception, take long or take much memory are files in ``--crashes``, and a line says how to
run one again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from .target import Target  # noqa: E402
from .targets import TARGETS  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"
MOST_FILES = 40
MOST_FILE_BYTES = 16 << 10


def lines_of(target: Target, data: bytes) -> frozenset[tuple[str, int]]:
    """The lines of imagekit (file, number) that parsing ``data`` runs; none if that fails."""
    seen: set[tuple[str, int]] = set()
    package = str(ROOT / "imagekit")

    def trace(frame: Any, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        target.judge(data)
    except Exception:
        # A finding, which is a file of its own: no part of the corpus.
        return frozenset()
    finally:
        sys.settrace(None)
    return frozenset(seen)


def keep(target: Target, found: Path, kept: Path) -> int:
    """Put into ``kept`` as few and small inputs of ``found`` as run every line that the seeds do
    not; how many there are. What ``kept`` had is weighed with them.
    """
    covered = {line for seed in target.valid for line in lines_of(target, seed)}
    inputs = {path.read_bytes() for place in (found, kept) for path in place.glob("*")}
    small = sorted((data for data in inputs if len(data) <= MOST_FILE_BYTES), key=len)
    chosen: list[bytes] = []
    for data in small:
        new = lines_of(target, data) - covered
        if new and len(chosen) < MOST_FILES:
            covered |= new
            chosen.append(data)
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob("*"):
        old.unlink()
    for number, data in enumerate(chosen):
        (kept / f"{number:02}").write_bytes(data)
    return len(chosen)


def main() -> int:
    """Search in a child, as libFuzzer ends its process, and keep what is new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--crashes", type=Path, default=ROOT / "build/fuzz")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    given = parser.parse_args()
    given.crashes.mkdir(parents=True, exist_ok=True)
    kept = given.corpus / given.target
    with tempfile.TemporaryDirectory(prefix="imagekit-corpus-") as scratch:
        for path in kept.glob("*"):
            shutil.copy(path, scratch)
        argv = [sys.executable, "-m", "tests.fuzz.search", given.target, scratch]
        argv += [str(given.crashes), str(given.seconds)]
        status = subprocess.run(argv, cwd=ROOT, check=False).returncode
        count = keep(TARGETS[given.target], Path(scratch), kept)
    print(f"{given.target}: {count} inputs in {kept}")
    if status:
        print(f"libFuzzer ended with {status}; the input is in {given.crashes}, to run it again:")
        print(f"  python -m tests.fuzz {given.target} --replay FILE")
    return status


if __name__ == "__main__":
    sys.exit(main())
