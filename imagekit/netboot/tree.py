"""A published tree: which files in it are ours, and changing them all or not at all.

``state.json`` says what was published and the digest of every file, so that a later run replaces
and removes what is ours and touches nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.errors import ExistsError, HostError, SpecError, VerificationError
from imagekit.host.strangers import require_private_path

STATE = "state.json"
VERSION = 1
MAX_STATE = 64 << 20


@dataclass(frozen=True)
class Content:
    """What a file shall hold: bytes, or a copy of ``source``; ``private`` files get mode 0600."""

    data: bytes = b""
    source: Path | None = None
    private: bool = False
    digest: str = ""

    def sha256(self) -> str:
        """Hex digest, computed unless it is known."""
        if self.digest:
            return self.digest
        if self.source is not None:
            return file_digest(self.source)
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class GuestRecord:
    """What is published for one guest; paths are below the tree's root."""

    mac: str
    ip: str
    mode: str
    kernel: str
    initrd: str
    args: str
    answers: str = ""
    answers_digest: str = ""
    answers_name: str = ""
    secret: bool = False
    token: str = ""
    done_token: str = ""


@dataclass
class State:
    """Everything published: how names are formed, the guests, and digests of owned files."""

    prefix: str = ""
    http: str = ""
    guests: dict[str, GuestRecord] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """What a publish did, as paths below the root."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that are no longer needed and were changed by somebody else, so left in place."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; raises SpecError when it cannot be read."""
    with opened(path) as fd:
        return descriptor_digest(fd)


def descriptor_digest(fd: int) -> str:
    """SHA-256 of an open file from its start, in hexadecimal; raises SpecError."""
    total = hashlib.sha256()
    offset = 0
    try:
        while block := os.pread(fd, 1 << 20, offset):
            total.update(block)
            offset += len(block)
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}") from error
    return total.hexdigest()


def require_private(root: Path, names: Iterable[str]) -> None:
    """Raise HostError if others could change the tree, or put something in place of the
    directories in which its files ``names`` lie."""
    hint = "make it yours, with all above it (chown, chmod go-w), or publish into another directory"
    for folder in sorted({root, *((root / name).parent for name in names)}):
        while not os.path.lexists(folder):
            folder = folder.parent
        require_private_path(folder, hint)


def load(root: Path) -> State:
    """The state of a tree, an empty one when nothing was published; raises SpecError."""
    path = root / STATE
    try:
        with path.open("rb") as stream:
            raw = json.loads(stream.read(MAX_STATE))
        if raw["version"] != VERSION:
            raise SpecError(f"state of version {raw['version']}", where=str(path))
        return State(
            prefix=str(raw["prefix"]),
            http=str(raw["http"]),
            guests={name: GuestRecord(**record) for name, record in raw["guests"].items()},
            files={name: [str(d) for d in digests] for name, digests in raw["files"].items()},
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"cannot read the state: {error}", where=str(path)) from error


def save(root: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    raw = {
        "version": VERSION,
        "prefix": state.prefix,
        "http": state.http,
        "guests": {name: vars(record) for name, record in sorted(state.guests.items())},
        "files": dict(sorted(state.files.items())),
    }
    data = (json.dumps(raw, indent=1) + "\n").encode()
    path = root / STATE
    if not path.exists() or path.read_bytes() != data:
        put(path, Content(data, private=True))


def put(path: Path, content: Content) -> None:
    """Write ``content`` beside ``path`` and rename it there.

    Raises VerificationError, with nothing changed, when what was written has not its digest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=".imagekit-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as stream:
            if content.source is not None:
                with opened(content.source) as source:
                    shutil.copyfileobj(os.fdopen(os.dup(source), "rb"), stream, 1 << 20)
            else:
                stream.write(content.data)
            stream.flush()
            os.fsync(stream.fileno())
        if content.digest and file_digest(Path(name)) != content.digest:
            raise VerificationError(
                "it was changed while it was published", where=str(content.source or path)
            )
        Path(name).chmod(0o600 if content.private else 0o644)
        Path(name).replace(path)
    except OSError as error:
        raise HostError(f"cannot write it: {error.strerror}", where=str(path)) from error
    finally:
        Path(name).unlink(missing_ok=True)


def apply(root: Path, old: State, new: State, wanted: Mapping[str, Content]) -> Changes:
    """Bring the tree from ``old`` to ``new``, whose files are ``wanted``, by path.

    Order: images and answers first, boot configs after them, removals last, so that a client
    never finds a config whose files are missing. Raises ExistsError, with nothing changed, when a
    file that is not ours (or no longer as we left it) stands in the way.
    """
    require_private(root, [*old.files, *wanted])
    digests = {name: content.sha256() for name, content in wanted.items()}
    todo = []
    for name, digest in digests.items():
        present = _present(root / name)
        if present == digest:
            continue
        if present is not None and present not in old.files.get(name, []):
            raise ExistsError(
                "this file was not written by imagekit, or was changed since",
                where=str(root / name),
                hint="move it away, then publish again",
            )
        todo.append(name)
    # Recorded before it is done: after a crash both contents count as ours.
    merged = {name: list(known) for name, known in old.files.items()}
    for name, digest in digests.items():
        merged[name] = list(dict.fromkeys([*merged.get(name, []), digest]))
    save(root, State(old.prefix, old.http, old.guests, merged))
    for name in sorted(todo, key=_rank):
        put(root / name, replace(wanted[name], digest=digests[name]))
    new.files = {name: [digest] for name, digest in digests.items()}
    removed, kept = _remove(root, {n: d for n, d in merged.items() if n not in digests})
    save(root, new)
    return Changes(tuple(todo), removed, kept)


def _rank(name: str) -> tuple[int, str]:
    return (0 if name.startswith(("tftp/images/", "answers/")) else 1, name)


def _present(path: Path) -> str | None:
    if path.is_symlink():
        return "symlink"
    return file_digest(path) if path.exists() else None


def _remove(root: Path, names: Mapping[str, list[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    removed, kept = [], []
    for name, known in sorted(names.items()):
        present = _present(root / name)
        if present is None:
            continue
        if present not in known:
            kept.append(name)
            continue
        (root / name).unlink()
        removed.append(name)
        parent = (root / name).parent
        while parent != root:
            with suppress(OSError):
                parent.rmdir()
            parent = parent.parent
    return tuple(removed), tuple(kept)
