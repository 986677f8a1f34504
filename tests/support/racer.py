"""A second user of the host who swaps all that is in their directory, as fast as they can."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import signal
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.strangers import STRANGER, given_away

MARK = b"-- nobody else may read this --\n"
_EXCHANGE = 2  # RENAME_EXCHANGE, linux/fs.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Witnesses:
    """Files and directories of root's: they never change, and what is in them is nowhere else."""

    folder: Path
    _before: dict[Path, tuple[object, ...]] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)

    def file(self, name: str, content: bytes) -> Path:
        """A new one, which holds MARK."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        assert MARK in content
        return path

    def watch(self) -> None:
        """From now on they must stay as they are."""
        self._before = dict(self._state())
        self._digests = dict(self._contents())

    def require_untouched(self, *, contents: bool = False) -> None:
        """Names, sizes, times, modes and owners always, ``contents`` when asked."""
        assert dict(self._state()) == self._before
        if contents:
            assert dict(self._contents()) == self._digests

    def _state(self) -> Iterator[tuple[Path, tuple[object, ...]]]:
        for path in (self.folder, *sorted(self.folder.rglob("*"))):
            status = path.lstat()
            found = (status.st_mode, status.st_uid, status.st_gid, status.st_ino)
            yield path, (*found, *((status.st_size, status.st_mtime_ns) if path.is_file() else ()))

    def _contents(self) -> Iterator[tuple[Path, str]]:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield path, hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Prey:
    """What the racer swaps: ``name`` in their directory against each of ``others``, which lie
    there too, and against links to ``targets``."""

    name: str
    others: tuple[str, ...] = ()
    targets: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Rewritten:
    """A file of the racer's whose beginning they replace by each of ``heads``, over and over."""

    name: str
    heads: tuple[bytes, ...]


class Racer:
    """The running process; ``swaps`` is how often something was in another's place."""

    def __init__(self, pid: int, counter: mmap.mmap) -> None:
        self.pid = pid
        self._counter = counter

    @property
    def swaps(self) -> int:
        """So far."""
        return int(struct.unpack_from("<Q", self._counter)[0])

    def require_running(self) -> None:
        """Fail when the racer ended by itself."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        assert done == 0, f"the racer ended: {status}"


@contextlib.contextmanager
def racing(
    folder: Path, prey: Sequence[Prey], rewritten: Sequence[Rewritten] = ()
) -> Iterator[Racer]:
    """Race in ``folder``, which is made the stranger's with all in it that is not root's own.

    Links that a Prey needs are made first, as the stranger's. What appears in the directory under a
    hidden name, as imagekit's unfinished files do, is replaced by a link to the first target.
    """
    swaps = []
    for item in prey:
        for index, target in enumerate(item.targets):
            link = folder / f"link-{index}-{item.name}"
            link.symlink_to(target)
            given_away(link)
            swaps.append((item.name, link.name))
        swaps += [(item.name, other) for other in item.others]
    targets = [target for item in prey for target in item.targets]
    given_away(folder)
    counter = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid == 0:
        _become_the_racer(folder, lambda: _race(swaps, rewritten, targets, counter))
    racer = Racer(pid, counter)
    try:
        while not racer.swaps:
            racer.require_running()
            os.sched_yield()
        yield racer
        racer.require_running()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _become_the_racer(folder: Path, race: Callable[[], None]) -> None:
    try:
        os.chdir(folder)
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        race()
    finally:
        os._exit(1)


def _race(
    swaps: Sequence[tuple[str, str]],
    rewritten: Sequence[Rewritten],
    targets: Sequence[Path],
    counter: mmap.mmap,
) -> None:
    pairs = [(os.fsencode(a), os.fsencode(b)) for a, b in swaps]
    done = 0
    while os.getppid() != 1:
        for name, other in pairs:
            # There and back: between the two it is what it should not be.
            for _ in range(2):
                done += _LIBC.renameat2(-100, name, -100, other, _EXCHANGE) == 0
        for item in rewritten:
            _rewrite(item)
            done += 1
        done += _replace_hidden(targets)
        struct.pack_into("<Q", counter, 0, done)


def _rewrite(item: Rewritten) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(item.name, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            for head in item.heads:
                os.pwrite(fd, head, 0)
        finally:
            os.close(fd)


def _replace_hidden(targets: Sequence[Path]) -> int:
    done = 0
    for entry in os.scandir("."):
        if entry.name.startswith(".") and not entry.is_symlink():
            with contextlib.suppress(OSError):
                Path(entry.name).unlink()
                Path(entry.name).symlink_to(targets[done % len(targets)])
                done += 1
    return done


def contents_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every regular file below ``folder``, read without following links."""
    for path in sorted(folder.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path, path.read_bytes()
