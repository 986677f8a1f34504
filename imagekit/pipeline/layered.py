"""A local store with a remote one behind it, that may fail without a build failing.

What is fetched is copied into the local store and used only if it has the digests that the remote
names. Who publishes there is trusted as whoever writes to the store is; the digests tell what was
damaged on the way. What this machine makes is published in the background.

The remote is asked in threads that are given up when they take longer than making things anew
would: a network file system whose server is gone blocks for ever.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from imagekit.errors import ImagekitError
from imagekit.pipeline.bounds import Pruned
from imagekit.pipeline.events import Events
from imagekit.pipeline.record import Record, marks
from imagekit.pipeline.result_store import Remote, SharedFile, SharedResult, UnusableResultError
from imagekit.pipeline.store import Entry, Made, Store
from imagekit.pipeline.workspace import deaf

T = TypeVar("T")
PATIENCE_S = 30.0
"""Seconds in which a remote must answer."""
SLOWEST = 4 << 20
"""Bytes a second that a remote must move; below that, making most results is faster."""


class LayeredStore:
    """``local`` in front of ``remote``; see :class:`imagekit.pipeline.result_store.ResultStore`."""

    def __init__(
        self, local: Store, remote: Remote, events: Events, *, patience: float = PATIENCE_S
    ) -> None:
        """What goes wrong with the remote is told to ``events``, as warnings.

        ``patience`` is how long it may take to answer, in seconds.
        """
        self._local = local
        self._remote = remote
        self._events = events
        self._patience = patience
        self._reads = self._writes = True
        self._waiting: queue.Queue[tuple[str, bool] | None] = queue.Queue()
        self._unpublished = 0
        self._bytes = 0
        self._changed = threading.Condition()
        self._publisher: threading.Thread | None = None
        self.root = local.root
        self.pool = local.pool

    def get(self, key: str, makes: Sequence[str]) -> Entry | None:
        """See :meth:`Store.get`: the remote is not asked."""
        return self._local.get(key, makes)

    def obtain(self, key: str, makes: Sequence[str], *, shared: bool) -> Entry | None:
        """As :meth:`get`; with ``shared``, the remote's result is fetched if there is none here."""
        entry = self._local.get(key, makes)
        if entry is not None or not (shared and self._reads):
            return entry
        found = self._asked(lambda: self._remote.look_up(key), self._patience, key)
        if found is None:
            return None
        with self._local.locked(key):
            entry = self._local.get(key, makes)  # somebody may have made it meanwhile
            return entry if entry is not None else self._fetched(found, makes)

    def _fetched(self, found: SharedResult, makes: Sequence[str]) -> Entry | None:
        if set(makes) - set(found.files):
            self._warn(f"has an incomplete result of {found.stage}, which is not used")
            return None
        seconds = self._patience + sum(found.files[n].size for n in makes) / SLOWEST
        output = self._local.new_output()
        try:
            digests = self._asked(lambda: self._verified(found, makes, output), seconds, found.key)
            if digests is None:
                return None
            entry = self._local.put(found.key, output, makes, digests, Made(found.stage))
            self._events.emit("note", text=f"{found.stage}: fetched from {self._remote.name}")
            return entry
        except OSError as error:
            self._warn(f"is not used: what it has cannot be stored: {error}")
            return None
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def _verified(
        self, found: SharedResult, makes: Sequence[str], output: Path
    ) -> Mapping[str, str]:
        self._remote.fetch(found, makes, output)
        for name in makes:
            path, file = output / name, found.files[name]
            status = path.lstat()
            regular = stat.S_ISREG(status.st_mode) and status.st_size == file.size
            if not regular or self._local.digest(path) != file.sha256:
                raise UnusableResultError(f"{name} does not have its SHA-256")
        return {name: found.files[name].sha256 for name in makes}

    def _asked(self, function: Callable[[], T], seconds: float, key: str) -> T | None:
        """What the remote answers; None, with a warning, if it does not or cannot be used."""
        try:
            return within(seconds, function)
        except UnusableResultError as error:
            self._warn(f"has a result that is not used: {error} ({key[:12]})")
            with contextlib.suppress(OSError, ImagekitError, UnusableResultError):
                within(self._patience, lambda: self._remote.discard(key))
        except (OSError, ImagekitError) as error:
            self._reads = self._writes = False
            self._warn(f"is not used: {_words(error)}")
        return None

    def _warn(self, text: str) -> None:
        self._events.emit("warning", text=f"the remote store {self._remote.name} {text}")

    def locked(self, key: str, *, wait_seconds: float = 3600) -> AbstractContextManager[None]:
        """See :meth:`Store.locked`: of this machine's builds."""
        return self._local.locked(key, wait_seconds=wait_seconds)

    def new_output(self) -> Path:
        """See :meth:`Store.new_output`."""
        return self._local.new_output()

    def put(
        self,
        key: str,
        output: Path,
        makes: Sequence[str],
        sha256: Mapping[str, str],
        made: Made | None = None,
    ) -> Entry:
        """See :meth:`Store.put`; what is ``made.shared`` is published meanwhile."""
        entry = self._local.put(key, output, makes, sha256, made)
        if made is not None and made.shared and self._writes:
            with self._changed:
                self._unpublished += 1
                self._bytes += sum(path.lstat().st_size for path in entry.files.values())
                if self._publisher is None:
                    # Nobody waits for it when a build fails, and it dies with the process.
                    self._publisher = threading.Thread(target=self._publish_all, daemon=True)
                    with deaf():
                        self._publisher.start()
            self._waiting.put((key, made.replaces))
        return entry

    def _publish_all(self) -> None:
        while (job := self._waiting.get()) is not None:
            key, replaces = job
            try:
                if self._writes:
                    self._publish(key, replace=replaces)
            except (OSError, ImagekitError, UnusableResultError) as error:
                self._writes = False
                self._warn(f"gets no more results from here: {_words(error)}")
            finally:
                with self._changed:
                    self._unpublished -= 1
                    self._changed.notify_all()

    def _publish(self, key: str, *, replace: bool) -> None:
        record = self._local.record(key)
        directory = self.root / "objects" / key
        if record is None or record.differences or len(record.digests()) < len(record.files):
            return
        try:
            if not replace and self._remote.look_up(key) is not None:
                return
        except UnusableResultError:
            replace = True
        files = {n: SharedFile(f.size, f.sha256 or "") for n, f in record.files.items()}
        result = SharedResult(key, record.stage, files)
        self._remote.publish(result, directory, replace=replace)
        if not _untouched(directory, record):  # a delivered disk that its guest writes to
            self._remote.discard(key)

    def settle(self) -> None:
        """See :meth:`Store.settle`; and wait until all is published, but not for ever."""
        self._local.settle()
        deadline = time.monotonic() + self._patience + self._bytes / SLOWEST
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self._unpublished, max(0.0, deadline - time.monotonic())
            )
        if not done:
            self._reads = self._writes = False
            self._warn("is too slow: not all results were published")
        if self._publisher is not None:
            self._waiting.put(None)
            self._publisher = None

    def condense(self) -> None:
        """See :meth:`Store.condense`."""
        self._local.condense()

    def last(self, name: str) -> dict[str, str] | None:
        """See :meth:`Store.last`."""
        return self._local.last(name)

    def remember(self, name: str, parts: Mapping[str, str]) -> None:
        """See :meth:`Store.remember`."""
        self._local.remember(name, parts)

    def shrink(self) -> Pruned:
        """See :meth:`Store.shrink`."""
        return self._local.shrink()

    def sweep(self) -> None:
        """See :meth:`Store.sweep`."""
        self._local.sweep()


def within(seconds: float, function: Callable[[], T]) -> T:
    """What ``function`` returns or raises; raises TimeoutError when it takes longer.

    It then goes on in its thread, which does not keep the process alive.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(function())
        except BaseException as error:  # it is raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    with deaf():
        thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if errors:
        raise errors[0]
    return answers[0]


def _words(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, ImagekitError):
        return f"{error.where}: {error.what}" if error.where else error.what
    return str(error)


def _untouched(directory: Path, record: Record) -> bool:
    try:
        return all(marks((directory / n).lstat()) == f.seen for n, f in record.files.items())
    except OSError:
        return False
