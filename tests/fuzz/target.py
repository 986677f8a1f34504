"""One parser of strangers' bytes, and how inputs for it are made."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from imagekit.errors import ImagekitError

Parse = Callable[[bytes], bool]
"""Parses an input; whether the parser read more of it than the header. May raise what the target
allows."""

Mutate = Callable[[random.Random, bytes], bytes]
"""Another input from a valid one: the structure is kept, checksums are made right mostly."""

MOST_BYTES = 256 << 10
"""No input is longer."""

_ROUNDS = (1, 1, 1, 2, 2, 3, 5)


@dataclass(frozen=True)
class Target:
    """``seeds`` makes valid inputs.

    ``shallow`` are parts of the messages of allowed errors by which a parser refuses an input at
    its header; any other allowed error, and True from ``parse``, mean that it got further.
    ``text`` inputs are UTF-8 for the most part.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate
    parse: Parse
    shallow: tuple[str, ...] = ()
    allowed: tuple[type[Exception], ...] = (ImagekitError,)

    @cached_property
    def valid(self) -> tuple[bytes, ...]:
        """The seeds."""
        return tuple(self.seeds())

    def input(self, number: int, source: random.Random | None = None) -> bytes:
        """The input ``number``, always the same; ``source`` saves making a generator for each."""
        source = source or random.Random()
        source.seed(zlib.crc32(self.name.encode()) << 40 | number)
        data = source.choice(self.valid)
        for _ in range(source.choice(_ROUNDS)):
            data = self.mutate(source, data)
        return data[:MOST_BYTES]

    def judge(self, data: bytes) -> bool:
        """Parse ``data``: whether it got past the header. Raises what the target does not allow."""
        try:
            return self.parse(data)
        except self.allowed as error:
            said = str(error)
            return not any(part in said for part in self.shallow)
