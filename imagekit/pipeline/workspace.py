"""The only owner of child processes, temporary directories and whatever else must be undone.

A workspace is a directory ``IMAGEKIT_CACHE/work/<id>`` (on disk) and, where memory allows,
``/dev/shm/imagekit-<uid>-<id>`` (tmpfs). Its lock file is held by flock(2) for as long as the
process lives, so that a later run knows which workspaces a SIGKILL orphaned: it ends every process
that still carries the workspace's id in its environment and removes both directories.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from imagekit.errors import HostError, Interrupted
from imagekit.host import run as host_run
from imagekit.host import userns
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.pipeline.events import Events

SHM = Path("/dev/shm")  # noqa: S108 - the kernel's shared tmpfs, used with private directories

HINT = "make it yours (chown, chmod go-w), or set IMAGEKIT_CACHE to another directory"


def cache_root() -> Path:
    """Directory of store and workspaces: $IMAGEKIT_CACHE, /var/cache/imagekit for root, or XDG."""
    if os.environ.get("IMAGEKIT_CACHE"):
        return Path(os.environ["IMAGEKIT_CACHE"]).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/imagekit")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "imagekit"


class Workspace:
    """Temporary directories and undo steps of one run; use :func:`workspace` to make one."""

    def __init__(self, root: Path, ident: str, events: Events, stack: contextlib.ExitStack) -> None:
        self.ident = ident
        self.events = events
        self.directory = root / ident
        self.shm = SHM / f"imagekit-{os.geteuid()}-{ident}"
        self._stack = stack
        self._has_shm = False
        self._shm_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handed: dict[str, Path] = {}

    def callback(self, undo: Callable[[], object]) -> None:
        """Register ``undo`` to run, last in first out, when the workspace closes."""
        self._stack.callback(undo)

    def temporary(self, name: str, *, size_bytes: int | None = None) -> Path:
        """A new empty directory, mode 0700; on tmpfs when ``size_bytes`` safely fit in memory."""
        number = next(self._numbers)
        parent = self.directory
        if size_bytes is not None and fits_in_memory(size_bytes):
            with self._shm_lock:
                self._make_shm()
            parent = self.shm
        path = parent / f"{number:03d}-{name}"
        path.mkdir(mode=0o700)
        return path

    def _make_shm(self) -> None:
        """Make the directory on tmpfs; one that somebody else put there is not used."""
        if self._has_shm:
            return
        try:
            self.shm.mkdir(mode=0o700)
        except FileExistsError:
            raise HostError(
                "exists already, and is not this run's: somebody guessed its name",
                where=str(self.shm),
                hint="look who made it (ls -ld), and build again",
            ) from None
        self._has_shm = True

    def hand_over(self, artefact: str, tree: Path) -> None:
        """Offer the live ``tree`` of ``artefact`` to the next stage of this run that wants it."""
        self._handed[artefact] = tree

    def handed_over(self, artefact: Path) -> Path | None:
        """The live tree of ``artefact``, once: whoever takes it changes it."""
        return self._handed.pop(artefact.name, None)

    def discard(self, path: Path) -> None:
        """Remove a tree made in this workspace, also one owned by mapped ids."""
        userns.remove_tree(path)


def fits_in_memory(size_bytes: int) -> bool:
    """Whether ``size_bytes`` on tmpfs leave at least as much memory again, and tmpfs has room."""
    try:
        free = os.statvfs(SHM)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return False
    available = next((int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")), 0) << 10
    return size_bytes * 2 < available and size_bytes < free.f_bavail * free.f_frsize


@contextlib.contextmanager
def workspace(events: Events, root: Path | None = None) -> Iterator[Workspace]:
    """A workspace for the length of a block; sweeps orphans first, releases everything at the end.

    SIGTERM and SIGHUP raise Interrupted in the block; signals that arrive while things are being
    released do not stop the release.
    """
    root = root or cache_root() / "work"
    try:
        os.close(make_folder(root, 0o700))
    except OSError as error:
        raise HostError(
            f"cannot create {root}: {error.strerror}",
            hint="set IMAGEKIT_CACHE to a directory you may write to",
        ) from None
    require_private_path(root, HINT)
    sweep(root)
    ident = f"{int(time.time()):x}-{secrets.token_hex(4)}"
    lock = _locked(root / f"{ident}.lock")
    with contextlib.ExitStack() as outer:
        outer.callback(_unlock, root / f"{ident}.lock", lock)
        outer.enter_context(_signals())
        outer.enter_context(_marker(ident))
        stack = contextlib.ExitStack()
        space = Workspace(root, ident, events, stack)
        space.directory.mkdir(mode=0o700)
        try:
            yield space
        finally:
            with deaf():
                host_run.kill_all()
                stack.close()
                for path in (space.shm, space.directory):
                    if _is_own_directory(path):
                        userns.remove_tree(path)


def sweep(root: Path) -> list[str]:
    """Release what killed runs left below ``root``; returns their ids."""
    swept = []
    for lock_path in sorted(root.glob("*.lock")):
        ident = lock_path.name.removesuffix(".lock")
        try:
            fd = os.open(lock_path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue
        _kill_marked(ident)
        for path in (SHM / f"imagekit-{os.geteuid()}-{ident}", root / ident):
            if _is_own_directory(path):
                userns.remove_tree(path)
        _unlock(lock_path, fd)
        swept.append(ident)
    return swept


def _is_own_directory(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _kill_marked(ident: str) -> None:
    wanted = f"{host_run.RUN_MARKER}={ident}".encode()
    for _ in range(20):
        found = False
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
            except OSError:
                continue
        if not found:
            return
        time.sleep(0.05)


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _unlock(path: Path, fd: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(fd)


@contextlib.contextmanager
def _marker(ident: str) -> Iterator[None]:
    before = os.environ.get(host_run.RUN_MARKER)
    os.environ[host_run.RUN_MARKER] = ident
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(host_run.RUN_MARKER, None)
        else:
            os.environ[host_run.RUN_MARKER] = before


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    numbers = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup(1) started this program
        numbers.remove(signal.SIGHUP)
    try:
        before = {n: signal.signal(n, _raise) for n in numbers}
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Let no signal that ends imagekit reach this thread, nor one that is started meanwhile.

    A signal goes to any thread that hears it, and its handler always runs in the main thread: a
    thread that is to live longer than a block has to be started deaf.
    """
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, names)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def copy_file(source: Path, target: Path, mode: int) -> None:
    """Copy a small regular file with ``mode``, beside its name and renamed when whole."""
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.chmod(mode)
    part.replace(target)
