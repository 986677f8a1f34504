"""How large the store may become, and what is removed to keep it so.

The least recently used results go first. What a running build uses stays, whatever the bound says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.pipeline.record import RECORD, Record, read_record
from imagekit.pipeline.settings import Setting, settings
from imagekit.spec.values import parse_size

KEY = re.compile(r"[0-9a-f]{64}")
MOST = 20 << 30
"""Bytes of the store, if nobody says otherwise and its file system has four times as many."""
FREE = 1 << 30
"""Bytes that stay free on the store's file system, if nobody says otherwise."""
DEEPEST = 8
"""A difference is made with whole files and with differences of these, so that 3 would do."""
BLOCK = 512
"""st_blocks is in units of this many bytes (stat(2))."""


@dataclass(frozen=True)
class Bounds:
    """``size``: what the store may take, ``free``: what stays free on its file system; in bytes."""

    size: int
    free: int


@dataclass(frozen=True)
class Result:
    """A stored result, or a file that was ``fetched``: when it was last used (seconds since 1970),
    and the bytes that it takes. ``directory`` is a file then."""

    key: str
    directory: Path
    used: float
    bytes: int
    record: Record
    fetched: bool = False


@dataclass(frozen=True)
class Pruned:
    """How many results were removed, and the bytes that the store takes now."""

    removed: int
    left: int


def default_bounds(root: Path) -> Bounds:
    """What holds for a store at ``root`` where nothing is set: 20 GiB, or a quarter of the disk."""
    status = os.statvfs(root)
    whole = status.f_blocks * status.f_frsize
    return Bounds(min(MOST, whole // 4), min(FREE, whole // 10))


def bounds(root: Path) -> Bounds:
    """What holds for a store at ``root``: by environment, else by settings, else by default.

    Raises SpecError for a value that is no size, naming where it stands.
    """
    given = {s.name: _size(s) for s in settings("cache")}
    usual = default_bounds(root)
    return Bounds(given.get("size", usual.size), given.get("free", usual.free))


def _size(setting: Setting) -> int:
    try:
        return parse_size(setting.value)
    except ValueError as error:
        raise SpecError(str(error), where=setting.where) from None


def results(root: Path) -> list[Result]:
    """What the store at ``root`` holds, the least recently used first; broken ones come first."""
    found = []
    for path in (*(root / "objects").iterdir(), *(root / "files").iterdir()):
        if KEY.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                found.append(_result(path))
    return _dependents_first(found)


def _dependents_first(found: list[Result]) -> list[Result]:
    """In order of use, where a base is used when its dependents are; those that lack one first."""
    known = {result.key: result for result in found if not result.fetched}
    used = {key: result.used for key, result in known.items()}
    depth = dict.fromkeys(known, 0)
    for key, result in known.items():
        if not result.record.bases() <= set(known):
            used[key] = 0.0
    for key in sorted(known, key=lambda key: used[key]):
        _pass_on(key, known, used, depth)
    ordered = [r if r.fetched else replace(r, used=used[r.key]) for r in found]
    return sorted(ordered, key=lambda r: (r.used, depth.get(r.key, 0), r.key))


def _pass_on(
    key: str, known: dict[str, Result], used: dict[str, float], depth: dict[str, int]
) -> None:
    """Let the bases of a result be used as late as it is, and be ``depth`` steps below it."""
    for base in known[key].record.bases() & set(known):
        if depth[base] > DEEPEST:
            continue  # a store that was written to by others: no result goes round in a circle
        if used[base] < used[key] or depth[base] <= depth[key]:
            used[base] = max(used[base], used[key])
            depth[base] = max(depth[base], depth[key] + 1)
            _pass_on(base, known, used, depth)


def _result(directory: Path) -> Result:
    status = directory.lstat()
    if stat.S_ISREG(status.st_mode):
        size = status.st_blocks * BLOCK
        return Result(directory.name, directory, status.st_mtime, size, Record({}), fetched=True)
    try:
        used, record = (directory / RECORD).stat().st_mtime, read_record(directory)
    except (OSError, ValueError):
        used, record = 0.0, Record({})
    return Result(directory.name, directory, used, disk_usage(directory), record)


def disk_usage(root: Path) -> int:
    """Bytes that ``root`` and all below it take on disk, as du(1) counts them.

    A file of several names counts once. What vanishes meanwhile does not count.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    for status in _walk(root):
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink == 1 or identity not in seen:
            total += status.st_blocks * BLOCK
        seen.add(identity)
    return total


def _walk(root: Path) -> Iterator[os.stat_result]:
    with contextlib.suppress(FileNotFoundError):
        yield root.lstat()
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    yield Path(folder, name).lstat()


def prune(root: Path, limits: Bounds) -> Pruned:
    """Remove results from the store at ``root`` until it keeps to ``limits``.

    What a running build uses stays; so may more than the limits allow. A result of which another
    one is a difference goes after that. What one is making does not
    count yet: a large disk in the making would drive out all that is cached.
    """
    total = _results_size(root)
    removed = 0
    kept: set[str] = set()
    for result in results(root):
        if total <= limits.size and _free(root) >= limits.free:
            break
        if result.key in kept or not remove(root, result):
            kept |= {result.key, *result.record.bases()}
        else:
            total -= result.bytes
            removed += 1
    return Pruned(removed, _results_size(root) if removed else total)


def _results_size(root: Path) -> int:
    return disk_usage(root) - disk_usage(root / "tmp")


def _free(root: Path) -> int:
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize


def remove(root: Path, result: Result) -> bool:
    """Remove it unless somebody holds it; its record goes first, without which it is no result.

    Returns whether it was removed.
    """
    if result.fetched:  # who takes a file of the pool copies it, and holds none
        with contextlib.suppress(FileNotFoundError):
            result.directory.unlink()
        return True
    use = root / "locks" / f"{result.key}.use"
    fd = os.open(use, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (result.directory / RECORD).unlink(missing_ok=True)
        shutil.rmtree(result.directory, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
