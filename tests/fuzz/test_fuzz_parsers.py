"""Every parser of strangers' bytes over many inputs: valid files with changes in their structure.

``IMAGEKIT_FUZZ_CASES`` is the number of inputs for each. A parser may return or raise the errors
that its target allows. It may not take long, take much memory, or end its process, and the
generator must get past the header often enough to test what lies behind.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzz.drive import CPU_SECONDS, run
from fuzz.targets import GUIDED, TARGETS

CASES = int(os.environ.get("IMAGEKIT_FUZZ_CASES", "300"))
LEAST_PAST_THE_HEADER = 0.10
MOST_MEMORY_KIB = 256 << 10
CORPUS = Path(__file__).parent / "corpus"
MOST_CORPUS_BYTES = 1 << 20
MOST_CORPUS_FILES = 50


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str) -> None:
    result = run(TARGETS[name], CASES)
    print(result)
    again = f"python -m tests.fuzz {name} --number"
    assert [f"{again} {f.number}: {f.text}" for f in result.failures] == []
    assert result.inputs == CASES
    assert result.share >= LEAST_PAST_THE_HEADER
    assert result.memory_kib <= MOST_MEMORY_KIB
    assert result.slowest < CPU_SECONDS


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_valid(name: str) -> None:
    target = TARGETS[name]
    assert all(target.judge(seed) for seed in target.valid)


@pytest.mark.parametrize("name", GUIDED)
def test_what_the_guided_search_kept_is_parsed(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert 0 < len(files) < MOST_CORPUS_FILES
    for path in files:
        TARGETS[name].judge(path.read_bytes())


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_CORPUS_BYTES
    assert {path.parent.name for path in files} <= set(GUIDED)
