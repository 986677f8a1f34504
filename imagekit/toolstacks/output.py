"""What every emitter gives back, and the shape of an emitter.

An emitter is a module with an ``EMITTER`` object of the protocol below, entered in
:mod:`imagekit.toolstacks.registry`. Emitters import neither each other nor that registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain

PUBLIC = 0o644
SECRET = 0o600

Content = str | bytes | Callable[[IO[bytes]], None]
"""A file's text (written as UTF-8), its bytes, or a function that streams it into an open file."""


@dataclass(frozen=True)
class OutputFile:
    """One file to write: its content and its permission bits (0600 when it holds a secret)."""

    content: Content
    mode: int = PUBLIC


@dataclass(frozen=True)
class Line:
    """A line of a config and the field of the domain it words, as in ``disks[0].target``.

    The field may be empty for pure syntax (a bracket, a comment).
    """

    text: str
    field: str = ""


class Emitter(Protocol):
    """One toolstack's words for a domain.

    Every method raises SpecError or CapabilityError where the toolstack cannot express the domain.
    """

    @property
    def name(self) -> str:
        """The toolstack, as in ``--toolstack``."""

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """The main config, line by line, for ``--explain``."""

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """The main config, ending in a newline."""

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """All files, by name relative to the output directory."""


def joined(lines: list[Line]) -> str:
    """The text of ``lines``, each ended by a newline."""
    return "".join(f"{line.text}\n" for line in lines)


def permissions(domain: Domain) -> int:
    """The permission bits of a file that words the whole domain."""
    return SECRET if domain.secret else PUBLIC
