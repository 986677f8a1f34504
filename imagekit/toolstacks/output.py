"""What every emitter gives back, the shape of an emitter, and its files written out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import ExistsError, SpecError
from imagekit.host.outfile import os_errors, replacing
from imagekit.host.strangers import make_folder

PUBLIC = 0o644
SECRET = 0o600

Content = str | bytes | Callable[[IO[bytes]], None]
"""A file's text (written as UTF-8), its bytes, or a function that streams it into an open file."""


@dataclass(frozen=True)
class OutputFile:
    """One file to write: its content and its permission bits.

    They are 0600 when it holds a secret or a disk, in which there are always some.
    """

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


def write_files(files: dict[str, OutputFile], directory: Path, *, force: bool) -> list[Path]:
    """Write ``files`` into ``directory``, each beside its place and then renamed; their paths.

    Raises ExistsError, with nothing written, when one exists and ``force`` is false.
    """
    for name in files:
        if name.startswith("/") or ".." in Path(name).parts:
            raise SpecError(f"{name!r} is not a name within the directory", where="-o")
        path = directory / name
        if not force and (path.is_symlink() or path.exists()):
            raise ExistsError("the file exists", where=str(path), hint="--force overwrites it")
    return [_write(directory / name, file) for name, file in files.items()]


def _write(path: Path, file: OutputFile) -> Path:
    with os_errors(path.parent):
        os.close(make_folder(path.parent))
    # A secret is never readable for a moment: it is 0600 until it is whole.
    with replacing(path, overwrite=True) as part, part.open("wb") as stream:
        _fill(stream, file)
        os.fchmod(stream.fileno(), file.mode)
    return path


def _fill(stream: IO[bytes], file: OutputFile) -> None:
    if isinstance(file.content, str):
        stream.write(file.content.encode())
    elif isinstance(file.content, bytes):
        stream.write(file.content)
    else:
        file.content(stream)
