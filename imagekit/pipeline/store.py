"""The content-addressed store of stage results: whole or not there, locked, bounded, checked.

Layout below the root: ``objects/KEY/`` with the files, or differences, and their record
(``imagekit.pipeline.record``); ``locks/KEY``; ``last/NAME.json`` with the parts of the key a stage
last ran with (to explain a miss); ``files/SHA256`` (``imagekit.pipeline.pool``); ``tmp/``. A copy
of it, wherever it is, is the same store.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imagekit.errors import BusyError, HostError
from imagekit.host.ownership import is_kept
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.pipeline.bounds import Bounds, Pruned, bounds, prune
from imagekit.pipeline.condense import condense
from imagekit.pipeline.difference import put_together
from imagekit.pipeline.pool import FilePool
from imagekit.pipeline.record import (
    DIFFERENCE,
    RECORD,
    Record,
    StoredFile,
    note,
    read_record,
    write_record,
)
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import HINT, cache_root, deaf

FOLDERS = ("objects", "locks", "last", "tmp", "files")
Digest = Callable[[Path], str]
Copy = Callable[[Path, Path], None]
"""Copies a file to a new one, and keeps its holes."""


class Files(Mapping[str, Path]):
    """Artefact name to file; one that lies there as a difference is put together when asked for.

    It is read then, and has its SHA-256. Asking raises HostError, and OSError, where there is no
    space left.
    """

    def __init__(self, whole: Mapping[str, Path], parts: Mapping[str, Callable[[], Path]]) -> None:
        self._whole = whole
        self._parts = parts

    def __getitem__(self, name: str) -> Path:
        return self._parts[name]() if name in self._parts else self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._whole, *self._parts))

    def __len__(self) -> int:
        return len(self._whole) + len(self._parts)


@dataclass(frozen=True)
class Entry:
    """A stored result: artefact name to file, and the SHA-256 of those that are known."""

    key: str
    directory: Path
    files: Mapping[str, Path]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """Which stage made a result, and for which guest; for those who look at the store.

    ``inputs`` are the keys of what it was made of. ``shared``: other machines should have it;
    ``replaces``: also instead of one that they have. ``interim``, ``quick``: see :class:`Stage`.
    """

    stage: str = ""
    guest: str = ""
    inputs: tuple[str, ...] = ()
    shared: bool = False
    replaces: bool = False
    interim: bool = False
    quick: bool = False


class Store:
    """Keeps the outputs of stages by key."""

    def __init__(
        self, root: Path | None = None, digest: Digest = digest_file, *, verify: bool = False
    ) -> None:
        """``digest`` gives the SHA-256 of a file; what is not as it was last seen is read.

        With ``verify`` everything that is asked for is read, once. Raises HostError.
        """
        self.root = root or cache_root() / "store"
        self.digest = digest
        self._verify = verify
        self._verified: set[str] = set()
        self._held: dict[str, int] = {}
        self._interim: list[str] = []
        self._scratch: Path | None = None
        self._putting_together = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="digests")
        self._digesting: dict[str, Future[None]] = {}
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
            if not os.access(path, os.W_OK):
                raise HostError(
                    f"cannot write to the store {self.root}: {path} is read-only",
                    hint="set IMAGEKIT_CACHE to a directory you may write to",
                )
        self.pool = FilePool(self.root / "files")

    def get(self, key: str, makes: Sequence[str]) -> Entry | None:
        """The result under ``key``, if it is whole and its files are as they were stored.

        Files that are another user's, or that others may write to, are not. A file that was copied
        here, or touched, counts when it has the digest that it was stored with. What was given out
        is not pruned by anybody as long as this Store lives.
        """
        directory = self.root / "objects" / key
        if not directory.is_dir():
            return None
        self._hold(key)
        try:
            if not (is_kept(directory.lstat()) and is_kept((directory / RECORD).lstat())):
                return None
            record = read_record(directory)
            if set(makes) - set(record.files):
                return None
            verify = self._verify and key not in self._verified
            if not self._right(directory, record.lying(), verify=verify):
                return None
            parts = [self._fits(key, record, name, verify=verify) for name in record.differences]
            if not all(parts):
                return None
        except (OSError, ValueError):
            return None
        self._verified.add(key)
        for used in (key, *record.bases()):  # in this order: what is a base goes later
            with contextlib.suppress(OSError):
                os.utime(self._directory(used) / RECORD)
        whole = {n: directory / n for n in record.files if n not in record.differences}
        files = Files(whole, {n: partial(self._whole, key, n) for n in record.differences})
        return Entry(key, directory, files if record.differences else whole, record.digests())

    def _directory(self, key: str) -> Path:
        return self.root / "objects" / key

    def _right(self, directory: Path, files: Mapping[str, StoredFile], *, verify: bool) -> bool:
        """Whether ``files`` are in ``directory`` as they should be; reads them where it must."""
        seen = {n: self._seen(directory / n, file, verify=verify) for n, file in files.items()}
        anew = {name: file for name, file in seen.items() if file != files[name]}
        if anew:
            note(directory, {name: file for name, file in anew.items() if file is not None})
        return None not in anew.values()

    def _fits(self, key: str, record: Record, name: str, *, verify: bool) -> bool:
        """Whether the file ``name``, which lies there as a difference, can be put together."""
        for base in record.differences[name].bases:
            self._hold(base.key)
            directory = self._directory(base.key)
            if not (is_kept(directory.lstat()) and is_kept((directory / RECORD).lstat())):
                return False
            file = read_record(directory).lying().get(base.name)
            if file is None or file.sha256 != base.sha256:
                return False
            if not self._right(directory, {base.name: file}, verify=False):
                return False
        if verify:
            try:
                self._whole(key, name)
            except HostError:
                return False
        return True

    def _whole(self, key: str, name: str) -> Path:
        """Put the file ``name`` together; it lives as long as this Store."""
        with self._putting_together:  # two stages of a build may ask at once
            return self._put_together(key, name)

    def _put_together(self, key: str, name: str) -> Path:
        if self._scratch is None:
            self._scratch = self.new_output()
        target = self._scratch / key / name
        if not target.exists():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            bases = read_record(self._directory(key)).differences[name].bases
            sources = [self._directory(base.key) / base.name for base in bases]
            directory = self._directory(key)
            with contextlib.suppress(ValueError):
                put_together(directory / f"{name}{DIFFERENCE}", sources, target)
            # What it is made with was written by others, and perhaps made anew.
            if (
                not target.exists()
                or self.digest(target) != read_record(directory).files[name].sha256
            ):
                target.unlink(missing_ok=True)
                (directory / RECORD).unlink(missing_ok=True)
                raise HostError(
                    f"the stored {name} is damaged, and was removed", hint="build again"
                )
        return target

    def obtain(self, key: str, makes: Sequence[str], *, shared: bool) -> Entry | None:
        """As :meth:`get`: there is no other place to look."""
        del shared
        return self.get(key, makes)

    def _seen(self, path: Path, known: StoredFile, *, verify: bool) -> StoredFile | None:
        """The file as it is now, if it is the one that is ``known``; reads it where it must.

        An owner can set the time of modification back, not that of change.
        """
        status = path.lstat()
        if not is_kept(status) or status.st_size != known.size:
            return None
        if known.is_seen(status) and not verify:
            return known
        if known.sha256 is None or self.digest(path) != known.sha256:
            return None
        return StoredFile.of(status, known.sha256)

    def _hold(self, key: str) -> None:
        if key not in self._held:
            path = self.root / "locks" / f"{key}.use"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if self._held.setdefault(key, fd) != fd:  # another stage was faster
                os.close(fd)

    def __del__(self) -> None:
        for fd in getattr(self, "_held", {}).values():
            with contextlib.suppress(OSError):
                os.close(fd)
        if getattr(self, "_scratch", None) is not None:
            shutil.rmtree(str(self._scratch), ignore_errors=True)

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

    def put(
        self,
        key: str,
        output: Path,
        makes: Sequence[str],
        sha256: Mapping[str, str],
        made: Made | None = None,
    ) -> Entry:
        """Store ``output`` (a directory from :meth:`new_output`) under ``key``, atomically.

        ``sha256`` has the digests of artefacts that are known; the others are taken meanwhile,
        until :meth:`settle`.
        """
        files = {}
        for name in makes:
            path = output / name
            path.chmod(0o600)
            files[name] = StoredFile.of(path.lstat(), sha256.get(name))
        made = made or Made()
        record = Record(files, made.stage, made.guest, made.inputs, quick=made.quick)
        write_record(output, record)
        target = self.root / "objects" / key
        if target.exists():
            old = self.root / "tmp" / f"old-{secrets.token_hex(6)}"
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        output.rename(target)
        self._verified.add(key)
        if made.interim:
            self._interim.append(key)
        entry = self.get(key, list(makes))
        if entry is None:
            raise HostError(f"files in the store {self.root} changed unexpectedly")
        unknown = [name for name in makes if name not in sha256]
        if unknown:
            # Its thread starts here. One that hears signals would spoil the quiet of a release.
            with deaf():
                self._digesting[key] = self._reader.submit(self._take_digests, target, unknown)
        return entry

    def _take_digests(self, directory: Path, names: list[str]) -> None:
        """Write the digests of files down, unless they are touched meanwhile."""
        taken = {}
        with contextlib.suppress(OSError):
            known = read_record(directory).files
            for name in names:
                path = directory / name
                sha256 = self.digest(path)
                status = path.lstat()
                if known[name].is_seen(status):
                    taken[name] = StoredFile.of(status, sha256)
        note(directory, taken)

    def settle(self) -> None:
        """Wait until all digests are noted: without them a copy of a result counts as none."""
        for key in list(self._digesting):
            self._digesting.pop(key).result()

    def record(self, key: str) -> Record | None:
        """What is recorded of a result, its digests too; waits for them."""
        digesting = self._digesting.get(key)
        if digesting is not None:
            digesting.result()
        try:
            return read_record(self.root / "objects" / key)
        except (OSError, ValueError):
            return None

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

    def condense(self) -> None:
        """Keep as differences what was interim, and old results where there are many.

        Called when a build is done: it reads and writes large files. Whatever goes wrong, all
        results stay what they were.
        """
        with contextlib.suppress(OSError):
            condense(self.root, self._held, self._interim, self.digest)

    def shrink(self) -> Pruned:
        """:func:`prune` to the bounds that are set; raises SpecError for what is no size."""
        return prune(self.root, bounds(self.root))

    def prune(self, size: int) -> Pruned:
        """:func:`prune` to ``size`` bytes, however much is free."""
        return prune(self.root, Bounds(size, 0))

    def sweep(self) -> None:
        """Remove outputs of runs that no longer exist."""
        for path in (self.root / "tmp").iterdir():
            pid = path.name.split("-")[0]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                shutil.rmtree(path, ignore_errors=True)
        self.pool.sweep()
