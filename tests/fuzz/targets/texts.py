"""What targets of texts share: mutations by words, files of memory, the words of YAML and JSON."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import mutate
from ..target import Mutate


def changing(*words: str) -> Mutate:
    """A mutation of texts with the words of one grammar."""

    def changed(source: random.Random, data: bytes) -> bytes:
        return mutate.text(source, data, words)

    return changed


def texts(*seeds: str) -> Callable[[], list[bytes]]:
    """Seeds that are written out."""
    return lambda: [seed.encode() for seed in seeds]


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """A file without a name on any disk."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


YAML = (
    *('"a\\0b"', '"\\ud800"', '"/../.."', "/x", "1e5", "é", "-1"),
    *(
        "&a",
        "*a",
        "<<: *a",
        "!!python/none x",
        "|",
        ">",
        "- ",
        "? ",
        ": ",
        "{}",
        "[]",
        "---",
        "...",
    ),
    *("null", "~", "yes", "1e999", "0x10", ".inf", "9" * 600, "!!binary x", "%YAML 1.2", "'", '"'),
    *("[[[[[[[[", "&b [*a, *a, *a, *a]", "2001-01-01", "\t"),
)
