"""The content-addressed store of stage results: whole or not there, locked, bounded, checked.

Layout below the root: ``objects/KEY/`` with the files and ``object.json``; ``locks/KEY``;
``last/NAME.json`` with the parts of the key a stage last ran with (to explain a miss); ``tmp/``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import BusyError, HostError
from imagekit.host.ownership import is_kept
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import HINT, cache_root

_KEY = re.compile(r"[0-9a-f]{64}")
FOLDERS = ("objects", "locks", "last", "tmp")
RECORD = "object.json"
Digest = Callable[[Path], str]


@dataclass(frozen=True)
class Entry:
    """A stored result: artefact name to file, and the SHA-256 of those that were delivered."""

    key: str
    directory: Path
    files: Mapping[str, Path]
    sha256: Mapping[str, str]


def fingerprint(path: Path) -> list[int]:
    """The :func:`marks` of the file itself, which is no link to another one."""
    return marks(path.lstat())


def marks(status: os.stat_result) -> list[int]:
    """Size, mtime and inode: equal means untouched since it was written and hashed."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def seal(directory: Path, name: str, sha256: str, changed: int) -> None:
    """Record that an artefact has this digest, and when its inode was changed for a good reason."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        info = json.loads((directory / RECORD).read_text())
        info["files"][name]["changed"] = changed
        info["info"]["sha256"][name] = sha256
        _write_record(directory, info)


def _write_record(directory: Path, record: Mapping[str, object]) -> None:
    part = directory / f"{RECORD}.{secrets.token_hex(4)}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        stream.write(json.dumps(record, sort_keys=True))
    part.replace(directory / RECORD)


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file")
    return name


class Store:
    """Keeps the outputs of stages by key."""

    def __init__(self, root: Path | None = None, digest: Digest = digest_file) -> None:
        """``digest`` gives the SHA-256 of a file; what was touched since it was stored is read."""
        self.root = root or cache_root() / "store"
        self._digest = digest
        self._held: dict[str, int] = {}
        try:
            for name in FOLDERS:
                os.close(make_folder(self.root / name, 0o700))
        except OSError as error:
            raise HostError(
                f"cannot write to the store {self.root}: {error.strerror}",
                hint="set IMAGEKIT_CACHE to a directory you may write to",
            ) from None
        for path in (self.root, *(self.root / name for name in FOLDERS)):
            require_private_path(path, HINT)

    def get(self, key: str, makes: Iterator[str] | tuple[str, ...] | list[str]) -> Entry | None:
        """The result under ``key``, if it is whole and its files are as they were stored.

        Files that are another user's, or that others may write to, are not. A file whose inode was
        changed since counts when it has the digest that it was stored with. What was given out is
        not pruned by anybody as long as this Store lives.
        """
        directory = self.root / "objects" / key
        if not directory.is_dir():
            return None
        self._hold(key)
        try:
            if not (is_kept(directory.lstat()) and is_kept((directory / RECORD).lstat())):
                return None
            info = json.loads((directory / RECORD).read_text())
            files = {
                name: directory / _plain(entry["file"]) for name, entry in info["files"].items()
            }
            for name, path in files.items():
                if not self._is_as_stored(path, name, info):
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if set(makes) - set(files):
            return None
        with contextlib.suppress(OSError):
            os.utime(directory / RECORD)
        return Entry(key, directory, files, info.get("info", {}).get("sha256", {}))

    def _is_as_stored(self, path: Path, name: str, info: Mapping[str, Any]) -> bool:
        """Also if an owner set the time of change back; reads the file only where it must."""
        status = path.lstat()
        if not is_kept(status) or marks(status) != info["files"][name]["fingerprint"]:
            return False
        if status.st_ctime_ns == info["files"][name].get("changed"):
            return True
        sha256 = info["info"]["sha256"].get(name)
        if sha256 is None or self._digest(path) != sha256:
            return False
        seal(path.parent, name, sha256, status.st_ctime_ns)
        return True

    def _hold(self, key: str) -> None:
        if key not in self._held:
            path = self.root / "locks" / f"{key}.use"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH)
            self._held[key] = fd

    def __del__(self) -> None:
        for fd in getattr(self, "_held", {}).values():
            with contextlib.suppress(OSError):
                os.close(fd)

    @contextlib.contextmanager
    def locked(self, key: str, *, wait_seconds: float = 3600) -> Iterator[None]:
        """Hold the lock of ``key``: of two builds that need the same stage, one runs it."""
        fd = os.open(self.root / "locks" / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + wait_seconds
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise BusyError(
                            "another build has been working on the same stage for an hour",
                            where=key[:12],
                        ) from None
                    time.sleep(0.1)
            yield
        finally:
            os.close(fd)

    def new_output(self) -> Path:
        """An empty directory on the store's file system that :meth:`put` can rename into place."""
        path = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(6)}"
        path.mkdir(mode=0o700)
        return path

    def put(self, key: str, output: Path, makes: list[str], sha256: Mapping[str, str]) -> Entry:
        """Store ``output`` (a directory from :meth:`new_output`) under ``key``, atomically.

        ``sha256`` has the digests of artefacts that are known.
        """
        files = {}
        for name in makes:
            path = output / name
            path.chmod(0o600)
            status = path.lstat()
            files[name] = {
                "file": name,
                "fingerprint": marks(status),
                "changed": status.st_ctime_ns,
            }
        _write_record(output, {"files": files, "info": {"sha256": dict(sha256)}})
        target = self.root / "objects" / key
        if target.exists():
            old = self.root / "tmp" / f"old-{secrets.token_hex(6)}"
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        output.rename(target)
        entry = self.get(key, list(makes))
        if entry is None:
            raise HostError(f"files in the store {self.root} changed unexpectedly")
        return entry

    def last(self, name: str) -> dict[str, str] | None:
        """The key parts that the stage ``name`` (with its guest) last ran with."""
        try:
            value = json.loads(self._last(name).read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def remember(self, name: str, parts: Mapping[str, str]) -> None:
        """Keep the key parts of a run stage for :meth:`last`."""
        path = self._last(name)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        part.write_text(json.dumps(dict(parts)))
        part.replace(path)

    def _last(self, name: str) -> Path:
        return self.root / "last" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def prune(self, max_bytes: int) -> tuple[int, int]:
        """Remove the least recently used results until at most ``max_bytes`` remain.

        Results that a running build uses stay. Returns (removed, bytes left).
        """
        entries = []
        for directory in (self.root / "objects").iterdir():
            if _KEY.fullmatch(directory.name):
                entries.append((_used(directory), directory, _bytes(directory)))
        total = sum(size for _used_at, _path, size in entries)
        removed = 0
        for _used_at, directory, size in sorted(entries, key=lambda e: e[0]):
            if total <= max_bytes:
                break
            use = self.root / "locks" / f"{directory.name}.use"
            fd = os.open(use, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            except OSError:
                continue
            finally:
                os.close(fd)
            total -= size
            removed += 1
        return removed, total

    def sweep(self) -> None:
        """Remove outputs of runs that no longer exist."""
        for path in (self.root / "tmp").iterdir():
            pid = path.name.split("-")[0]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                shutil.rmtree(path, ignore_errors=True)


def _used(directory: Path) -> float:
    try:
        return (directory / RECORD).stat().st_mtime
    except OSError:
        return 0.0


def _bytes(directory: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in directory.rglob("*") if f.is_file())
