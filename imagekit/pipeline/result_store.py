"""What a build asks of a store of results, and a store of what machines that share results.

A build knows :class:`ResultStore` alone: ``imagekit.pipeline.store`` is one on this machine,
``imagekit.pipeline.layered`` one with a :class:`Remote` behind it. A remote is a directory
(``imagekit.pipeline.directory_remote``) or whatever else implements the protocol; it only moves
files, and is not believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from imagekit.pipeline.bounds import KEY, Pruned
from imagekit.pipeline.pool import FilePool
from imagekit.pipeline.store import Entry, Made

VERSION = 1


class ResultStore(Protocol):
    """Keeps the outputs of stages by key."""

    root: Path
    pool: FilePool

    def get(self, key: str, makes: Sequence[str]) -> Entry | None:
        """The result under ``key`` that lies here, whole and with all of ``makes``."""

    def obtain(self, key: str, makes: Sequence[str], *, shared: bool) -> Entry | None:
        """As :meth:`get`; with ``shared`` it is fetched to here if it lies elsewhere.

        Must not be called while :meth:`locked` is held for ``key``.
        """

    def locked(self, key: str, *, wait_seconds: float = 3600) -> AbstractContextManager[None]:
        """Hold the lock of ``key``: of two builds that need the same stage, one runs it.

        Raises BusyError after ``wait_seconds``.
        """

    def new_output(self) -> Path:
        """An empty directory for :meth:`put`."""

    def put(
        self,
        key: str,
        output: Path,
        makes: Sequence[str],
        sha256: Mapping[str, str],
        made: Made | None = None,
    ) -> Entry:
        """Store ``output`` under ``key``, whole or not at all."""

    def settle(self) -> None:
        """Wait until everything that was put is recorded, and shared where it should be."""

    def condense(self) -> None:
        """Keep results in less space, now that a build is done."""

    def last(self, name: str) -> dict[str, str] | None:
        """The key parts that the stage ``name`` (with its guest) last ran with."""

    def remember(self, name: str, parts: Mapping[str, str]) -> None:
        """Keep the key parts of a run stage for :meth:`last`."""

    def shrink(self) -> Pruned:
        """Remove what goes beyond the limits."""

    def sweep(self) -> None:
        """Remove outputs of runs that no longer exist."""


class UnusableResultError(Exception):
    """What a remote has under a key is damaged, incomplete, or not to be trusted."""


@dataclass(frozen=True)
class SharedFile:
    """A file of a shared result: its size in bytes, and its SHA-256 as 64 hex digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class SharedResult:
    """What a remote says of the result under ``key``: its files by name, and the stage."""

    key: str
    stage: str
    files: Mapping[str, SharedFile]

    def to_json(self) -> str:
        """The text that :func:`parse_shared` reads."""
        files = {name: asdict(file) for name, file in self.files.items()}
        value = {"version": VERSION, "key": self.key, "stage": self.stage, "files": files}
        return json.dumps(value, sort_keys=True)


def parse_shared(text: bytes, key: str) -> SharedResult:
    """The description of the result under ``key``; raises UnusableResultError for another one."""
    try:
        value = json.loads(text)
        if value["version"] != VERSION or value["key"] != key:
            raise UnusableResultError("it describes another result")
        files = {_plain(name): _file(file) for name, file in value["files"].items()}
        return SharedResult(key, str(value["stage"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnusableResultError("its description is no such thing") from None


def _plain(name: str) -> str:
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise ValueError(name)
    return name


def _file(value: Any) -> SharedFile:
    size, sha256 = value["size"], value["sha256"]
    if not isinstance(size, int) or size < 0 or not KEY.fullmatch(sha256):
        raise ValueError(value)
    return SharedFile(size, sha256)


class Remote(Protocol):
    """Results that several machines share.

    Methods may raise OSError or ImagekitError when it cannot be reached or written to, and
    UnusableResultError about a single result. They are called in a thread that is left alone if it
    takes too long.
    """

    name: str
    """What messages call it."""

    def look_up(self, key: str) -> SharedResult | None:
        """What it has under ``key``."""

    def fetch(self, result: SharedResult, names: Sequence[str], target: Path) -> None:
        """Write the files ``names`` of ``result`` into the empty directory ``target``.

        Holes stay holes. Nothing need be verified: who calls does that.
        """

    def publish(self, result: SharedResult, directory: Path, *, replace: bool) -> None:
        """Take the files of ``result`` from ``directory``; others see all of it or nothing.

        What somebody has published meanwhile stays, unless ``replace``.
        """

    def discard(self, key: str) -> None:
        """Remove a result that turned out to be damaged, so that it can be published anew."""
