"""A stage: something that makes named artefacts from named artefacts, and says what it depends on.

Adding an install method means adding stages; nothing else in the engine changes.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from imagekit.pipeline.pool import FilePool
from imagekit.pipeline.workspace import Workspace


def digest_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass
class StageRun:
    """What a running stage gets: its inputs, where its outputs go, and how to speak.

    ``inputs`` maps artefact names to files (read only: they belong to the store); ``output`` is an
    empty directory in which the stage leaves one file for each name in ``makes``; ``logs`` takes
    the logs of external tools; ``progress`` is called with (done, total) in any unit. ``pool``, if
    there is one, keeps what was fetched for the next time.
    """

    workspace: Workspace
    inputs: Mapping[str, Path]
    output: Path
    logs: Path
    progress: Callable[[int, int], None] = field(default=lambda _done, _total: None)
    pool: FilePool | None = None

    def note(self, text: str) -> None:
        """Tell the user something that is worth knowing and no error."""
        self.workspace.events.emit("note", text=text)


class Stage(ABC):
    """One step of a plan. Subclasses set the class attributes and implement the methods.

    ``needs`` and ``makes`` are artefact names. A stage must write nothing outside ``run.output``
    and ``run.workspace``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: Sequence[str] = ()
    makes: Sequence[str] = ()
    loads: Sequence[str] = ()
    """Modules that it imports by a name found at run time; they belong to its code."""
    shared: ClassVar[bool] = True
    """Whether machines share its results. Not if it makes them in less time than moving them takes,
    as other formats of a disk, if they hold what belongs to this host, or if it is to verify them
    itself."""
    quick: ClassVar[bool] = False
    """Whether its results are made in seconds from what it needs: old ones are the first that a
    large store removes."""
    interim: ClassVar[bool] = False
    """Whether its results are little more than a step to the next stage's: the store keeps them as
    differences from what they were made of, which costs a little when they are used again."""

    def check(self) -> None:  # noqa: B027 - most stages have nothing to check
        """Raise SpecError for inputs that are not there, or HostError; called when it is planned.

        The constructor reads no files and no variables of the environment.
        """

    @abstractmethod
    def key(self) -> Mapping[str, Any]:
        """Everything that can change the result, apart from the needed artefacts, as plain JSON.

        The stage's code is digested by the engine (:mod:`imagekit.pipeline.source`), with files
        that its modules name in ``SHIPS``. Secrets go in as digests only.
        """

    @abstractmethod
    def run(self, run: StageRun) -> None:
        """Make the artefacts."""

    def used(self, made: Mapping[str, Path], pool: FilePool) -> None:  # noqa: B027 - most keep none
        """Called when its stored artefacts are used again, so that what it fetched stays as long.

        It must not fail.
        """


@dataclass(frozen=True)
class Target:
    """An artefact that is delivered into the build directory."""

    artefact: str
    path: str
    role: str
    mode: int = 0o644
    fields: Mapping[str, Any] = field(default_factory=dict)
