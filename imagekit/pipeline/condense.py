"""Which results the store keeps as differences, and from what.

Whatever belongs to one base has most of its bytes in common with it: trees after other phases,
disks made of them, disks in other formats, and all of that for other guests. So a large file is
kept as a difference from the tree that everything began with, and from another difference: a *root*
lies there whole, a *donor* is a difference from that root alone. More steps are not taken, so that
few results depend on each other.

A file is used whole again by putting it together, at the pace of the disk. A result is condensed
when it is old and the store much larger than what a build uses, or at once if it is interim. Old
disks in other formats are not worth that: they are removed, and converted again if they are wanted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from imagekit.pipeline.bounds import BLOCK as UNIT
from imagekit.pipeline.bounds import disk_usage, remove, results
from imagekit.pipeline.difference import BLOCK, SECTOR, Source, write_difference
from imagekit.pipeline.record import (
    DIFFERENCE,
    Base,
    Difference,
    Record,
    StoredFile,
    note_difference,
)

LEAST = 4 << 20
"""Bytes on disk below which a file is left as it is."""
MOST = 0.5
"""A difference of more than this share of a file is not worth it."""
ROOTS = 2
"""How many roots are tried for a file."""
AT_ONCE = 4
"""Files of old results that are read when a build is done, for a second or two each; it leaves two
large ones itself that are not made in seconds."""
TOGETHER_S = 600
"""Results that were used within so many seconds are taken for those of one build."""
TIMES = 3
"""The store may be this many times as large as what a build uses before old results are
condensed: a few builds of a spec that changes need not wait for that."""


def condense(
    root: Path, mine: Mapping[str, int], interim: Sequence[str], digest: Callable[[Path], str]
) -> None:
    """Condense the results ``interim``, and others until the store at ``root`` is small enough.

    ``mine`` are the results that the caller uses, with the descriptors that hold them; others that
    somebody uses stay as they are. ``digest`` gives the SHA-256 of a file that was touched: it had
    another name in a build directory, and lost that when the directory was removed. Raises OSError.
    Somebody else who does this is not waited for.
    """
    fd = os.open(root / "locks" / "condense", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.closing(_Condenser(root, mine, digest)) as condenser:
            condenser.run(interim)
    except BlockingIOError:
        return
    finally:
        os.close(fd)


class _Condenser:
    """What is known of all results while some are condensed."""

    def __init__(self, root: Path, mine: Mapping[str, int], digest: Callable[[Path], str]) -> None:
        self._root = root
        self._digest = digest
        self._mine = mine
        self._known = {r.key: r for r in results(root) if not r.fetched and r.record.files}
        self._records = {key: result.record for key, result in self._known.items()}
        self._source: Source | None = None
        self._tried = 0
        """How many files were read."""

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    def run(self, interim: Sequence[str]) -> None:
        for key in self._in_order(set(interim)):
            self._condense(key)
        used = sum(self._known[key].bytes for key in set(self._mine) & set(self._known))
        total = disk_usage(self._root / "objects")
        self._tried = 0
        others = self._in_order(set(self._known) - set(self._mine))
        for key in filter(self._dispensable, others):
            if total <= TIMES * used:
                return
            if remove(self._root, self._known[key]):
                total -= self._known[key].bytes
                del self._known[key], self._records[key]
        for key in filter(self._known.__contains__, others):
            if total <= TIMES * used or self._tried >= AT_ONCE:
                return
            total -= self._condense(key)

    def _dispensable(self, key: str) -> bool:
        """Whether a result can be made again in seconds, and no other one is lost with it."""
        record = self._records[key]
        there = record.inputs and set(record.inputs) <= set(self._known)
        needed = any(key in other.bases() for other in self._records.values())
        return record.quick and bool(there) and not needed

    def _in_order(self, keys: set[str]) -> list[str]:
        """The least recently used first; of one build, each after what it was made of."""

        def order(key: str) -> tuple[int, int]:
            return int(self._known[key].used) // TOGETHER_S, len(list(self._ancestors(key)))

        return sorted(keys & set(self._known), key=order)

    def _ancestors(self, key: str) -> Iterator[str]:
        """What a result was made of, the farthest first."""
        seen = {key}

        def walk(of: str) -> Iterator[str]:
            for name in self._records[of].inputs:
                if name in self._records and name not in seen:
                    seen.add(name)
                    yield from walk(name)
                    yield name

        yield from walk(key)

    def _condense(self, key: str) -> int:
        """Condense the large files of a result that nobody else uses; returns the bytes saved."""
        own = self._mine.get(key)
        path = self._root / "locks" / f"{key}.use"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if own is None else own
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return sum(self._condensed(key, name) for name in self._records[key].files)
        except BlockingIOError:
            return 0
        finally:
            if own is None:
                os.close(fd)
            else:
                fcntl.flock(fd, fcntl.LOCK_SH)

    def _condensed(self, key: str, name: str) -> int:
        directory, record = self._known[key].directory, self._records[key]
        done = name in record.differences or name in record.apart
        status = None if done else (directory / name).lstat()
        needed = {(b.key, b.name) for r in self._records.values() for b in _bases(r)}
        file = record.files[name]
        if (
            status is None
            or file.sha256 is None
            or status.st_blocks * UNIT < LEAST
            or (key, name) in needed
            or not (file.is_seen(status) or self._digest(directory / name) == file.sha256)
        ):
            return 0
        self._tried += 1
        for base in self._roots(key, name)[:ROOTS]:
            if part := self._written(key, name, [base, *self._donors(key, base)]):
                self._records[key] = note_difference(directory, name, part)
                (directory / name).unlink()
                return status.st_blocks * UNIT - part.file.size
            self._records[key] = note_difference(directory, name, None)
        return 0

    def _written(self, key: str, name: str, bases: list[Base]) -> Difference | None:
        directory = self._known[key].directory
        target = directory / f"{name}{DIFFERENCE}"
        made = self._root / "tmp" / f"{os.getpid()}-{secrets.token_hex(6)}"
        made.mkdir(mode=0o700)
        with contextlib.ExitStack() as stack:
            stack.callback(made.rmdir)
            for base in bases:
                self._hold(base.key, stack)
            sources = [self._opened(bases[0])]
            for base in bases[1:]:
                source = Source(self._path(base), SECTOR)
                stack.callback(source.close)
                sources.append(source)
            part = made / "difference"
            stack.callback(part.unlink, missing_ok=True)
            if not write_difference(directory / name, sources, part, most=MOST):
                return None
            part.replace(target)
        return Difference(StoredFile.of(target.lstat(), self._digest(target)), tuple(bases))

    def _hold(self, key: str, stack: contextlib.ExitStack) -> None:
        """Let nobody prune a result meanwhile; raises BlockingIOError if somebody just does so."""
        path = self._root / "locks" / f"{key}.use"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _opened(self, base: Base) -> Source:
        """The root as a source: its index is made once for all that follow it."""
        path = self._path(base)
        if self._source is None or self._source.path != path:
            self.close()
            self._source = None
            self._source = Source(path, BLOCK)
        return self._source

    def _path(self, base: Base) -> Path:
        return self._known[base.key].directory / base.name

    def _roots(self, key: str, name: str) -> list[Base]:
        """Whole files that a difference could be made from, the best first."""
        found: list[Base] = []
        for ancestor in self._ancestors(key):
            record = self._records[ancestor]
            found += [b for b in _bases(record) if not b.name.endswith(DIFFERENCE)]
            found += [b for n in record.files if (b := self._whole(ancestor, n)) is not None]
        same = [k for k, r in self._records.items() if r.stage == self._records[key].stage]
        for other in reversed(same):
            found += [b for b in _bases(self._records[other]) if not b.name.endswith(DIFFERENCE)]
            if other != key and (whole := self._whole(other, name)) is not None:
                found.append(whole)
        return [b for b in dict.fromkeys(found) if not self._leads_to(b.key, key)]

    def _whole(self, key: str, name: str) -> Base | None:
        """A large whole file as a base: one that nobody has linked elsewhere, and may write to."""
        file = self._records[key].files.get(name)
        if file is None or file.sha256 is None or name in self._records[key].differences:
            return None
        with contextlib.suppress(OSError):
            status = (self._known[key].directory / name).lstat()
            large = status.st_blocks * UNIT >= LEAST and status.st_nlink == 1
            return Base(key, name, file.sha256) if large and file.is_seen(status) else None
        return None

    def _donors(self, key: str, root: Base) -> list[Base]:
        """A difference from ``root`` alone, of the stage of ``key`` or of one before it."""
        record = self._records[key]
        stages = [record.stage, *(self._records[k].stage for k in self._ancestors(key))]
        for stage in stages:
            for other, theirs in self._records.items():
                for name, part in theirs.differences.items():
                    alike = theirs.stage == stage and part.bases == (root,) and other != key
                    if alike and part.file.sha256 and not self._leads_to(other, key):
                        return [Base(other, f"{name}{DIFFERENCE}", part.file.sha256)]
        return []

    def _leads_to(self, key: str, target: str) -> bool:
        """Whether a result is, or needs, another one."""
        todo, seen = [key], set()
        while todo:
            if (one := todo.pop()) == target:
                return True
            if one not in seen and one in self._records:
                seen.add(one)
                todo += self._records[one].bases()
        return False


def _bases(record: Record) -> list[Base]:
    return [base for part in record.differences.values() for base in part.bases]
