"""One search by coverage, in a process of its own: libFuzzer ends it.

Arguments: the target, a directory of inputs that grows, one for inputs that fail, seconds.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["imagekit"]):
    from .targets import TARGETS

RSS_MIB = 2048
INPUT_SECONDS = 10
MOST_BYTES = 64 << 10
PLAIN_SHARE = 0.3
"""Share of libFuzzer's own mutations; the others are those of the target, which know its format."""


def search(name: str, corpus: Path, failed: Path, seconds: int) -> None:
    """Search; does not return."""
    target = TARGETS[name]
    for number, seed in enumerate(target.valid):
        (corpus / f"seed-{number}").write_bytes(seed)
    source = random.Random()

    def one(data: bytes) -> None:
        target.judge(data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        source.seed(seed)
        if source.random() < PLAIN_SHARE:
            mutated: bytes = atheris.Mutate(data, most)
            return mutated
        return target.mutate(source, bytes(data))[:most]

    argv = [sys.argv[0], f"-max_total_time={seconds}", f"-artifact_prefix={failed}/{name}-"]
    argv += [f"-rss_limit_mb={RSS_MIB}", f"-timeout={INPUT_SECONDS}", "-print_final_stats=1"]
    argv += [f"-max_len={MOST_BYTES}", str(corpus)]
    atheris.Setup(argv, one, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    search(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
