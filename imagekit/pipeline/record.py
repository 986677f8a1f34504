"""What the store writes down of a result: its files, their digests, and when they were last seen.

``object.json`` lies beside the files. Each lies there whole, or as what others do not have of it,
``NAME.difference`` (``imagekit.pipeline.difference``). A file is known by its SHA-256, so that a
copy of the store is as good as the store. Size, mtime, inode and ctime are a shortcut: as long as
they are what they were when the digest was taken, the file need not be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

RECORD = "object.json"
VERSION = 2
DIFFERENCE = ".difference"
"""What the name of a file that is no whole one ends with."""
Marks = tuple[int, int, int]
_HEX = re.compile(r"[0-9a-f]{64}")


def marks(status: os.stat_result) -> Marks:
    """Size in bytes, mtime in ns, inode: equal means untouched since it was written and hashed."""
    return (status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class StoredFile:
    """``seen`` are the :func:`marks` that it had when it was known to be right, ``changed`` is its
    ctime in ns. ``sha256`` is None until it is known."""

    size: int
    sha256: str | None
    seen: Marks
    changed: int

    @classmethod
    def of(cls, status: os.stat_result, sha256: str | None) -> StoredFile:
        """What is to be written down of a file that is as it should be."""
        return cls(status.st_size, sha256, marks(status), status.st_ctime_ns)

    def is_seen(self, status: os.stat_result) -> bool:
        """Whether nothing has touched the file; without a digest its ctime does not count."""
        return self.seen == marks(status) and self.changed == status.st_ctime_ns


@dataclass(frozen=True)
class Base:
    """A file that a difference is made with: of the result ``key``, as it is called there."""

    key: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Difference:
    """The difference file itself, and what it is made with, in order."""

    file: StoredFile
    bases: tuple[Base, ...]


@dataclass(frozen=True)
class Record:
    """A stored result: its files by name, the stage that made it and for which guest.

    ``inputs`` are the keys of the results that it was made of, ``differences`` the files that do
    not lie there whole, ``apart`` names those that have too little in common with others for that.
    ``quick``: it can be made again in seconds.
    """

    files: Mapping[str, StoredFile]
    stage: str = ""
    guest: str = ""
    inputs: tuple[str, ...] = ()
    differences: Mapping[str, Difference] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    quick: bool = False

    def lying(self) -> dict[str, StoredFile]:
        """The files that lie in the directory, by the names that they have there."""
        whole = {n: file for n, file in self.files.items() if n not in self.differences}
        parts = {f"{n}{DIFFERENCE}": part.file for n, part in self.differences.items()}
        return {**whole, **parts}

    def bases(self) -> set[str]:
        """The keys of the results without which this one is none."""
        return {base.key for part in self.differences.values() for base in part.bases}

    def digests(self) -> dict[str, str]:
        """The digests that are known, by file name."""
        return {n: f.sha256 for n, f in self.files.items() if f.sha256 is not None}


def read_record(directory: Path) -> Record:
    """The record of the result in ``directory``; raises OSError, and ValueError for a wrong one."""
    value = json.loads((directory / RECORD).read_text())
    try:
        if value["version"] != VERSION:
            raise ValueError(f"a record of version {value['version']}")
        files = {_plain(name): _file(entry) for name, entry in value["files"].items()}
        parts = {n: _difference(entry) for n, entry in value.get("differences", {}).items()}
        inputs = tuple(_key(key) for key in value.get("inputs", ()))
        apart = tuple(_plain(name) for name in value.get("apart", ()))
        quick = value.get("quick") is True
        return Record(files, str(value["stage"]), str(value["guest"]), inputs, parts, apart, quick)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record: {error}") from None


def write_record(directory: Path, record: Record) -> None:
    """Put ``record`` in its place in ``directory``, whole."""
    value = {
        "version": VERSION,
        "stage": record.stage,
        "guest": record.guest,
        "files": {name: asdict(entry) for name, entry in record.files.items()},
        "inputs": record.inputs,
        "apart": record.apart,
        "quick": record.quick,
        "differences": {name: asdict(part) for name, part in record.differences.items()},
    }
    part = directory / f"{RECORD}.{secrets.token_hex(4)}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        stream.write(json.dumps(value, sort_keys=True))
    part.replace(directory / RECORD)


def note(directory: Path, files: Mapping[str, StoredFile]) -> None:
    """Replace what the record has of ``files``, by the names that they have in ``directory``.

    Of a result that is gone nothing is noted.
    """
    with contextlib.suppress(OSError, ValueError), _held(directory):
        record = read_record(directory)
        parts = {
            name: replace(part, file=files.get(f"{name}{DIFFERENCE}", part.file))
            for name, part in record.differences.items()
        }
        whole = {name: files.get(name, file) for name, file in record.files.items()}
        write_record(directory, replace(record, files=whole, differences=parts))


def note_difference(directory: Path, name: str, part: Difference | None) -> Record:
    """Write down that the file ``name`` lies in ``directory`` as a difference from now on.

    Without ``part``, that it is not worth it. Returns the record. Raises OSError, and ValueError
    for a result without a record.
    """
    with _held(directory):
        record = read_record(directory)
        if part is None:
            record = replace(record, apart=(*record.apart, name))
        else:
            record = replace(record, differences={**record.differences, name: part})
        write_record(directory, record)
        return record


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _file(entry: Any) -> StoredFile:
    size, mtime, inode = entry["seen"]
    sha256 = entry["sha256"]
    numbers = (entry["size"], size, mtime, inode, entry["changed"])
    if not all(isinstance(n, int) for n in numbers) or not isinstance(sha256, str | None):
        raise TypeError("a file that is described otherwise")
    return StoredFile(entry["size"], sha256, (size, mtime, inode), entry["changed"])


def _difference(entry: Any) -> Difference:
    bases = tuple(
        Base(_key(b["key"]), _plain(b["name"]), _key(b["sha256"])) for b in entry["bases"]
    )
    return Difference(_file(entry["file"]), bases)


def _key(text: Any) -> str:
    if not _HEX.fullmatch(text):
        raise ValueError(f"{text!r} is neither a key nor a SHA-256")
    return str(text)


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file")
    return name
