"""A remote store in a directory that machines share: on NFS, or restored by a CI system.

Layout: ``KK/KEY/`` (KK are the first two digits of the key) with the files and ``result.json``,
which names them with their digests; ``.part-*`` are being written. A result is written beside its
name and renamed, so that it is there whole or not at all. Nobody locks anything: results of one key
are as good as each other, and the first one stays.

Whoever may write to the directory decides what is built here, as with the store itself: it must
belong to root or to who runs imagekit, and nobody else may write to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagekit.errors import HostError, SpecError
from imagekit.host.opening import Held, open_at, read_bounded, regular
from imagekit.host.ownership import is_kept
from imagekit.host.strangers import open_folder, why_not_private
from imagekit.pipeline.result_store import SharedResult, UnusableResultError, parse_shared
from imagekit.pipeline.store import Copy

DESCRIPTION = "result.json"
MOST_DESCRIPTION = 1 << 20
"""Bytes of a description that are read; one names a dozen files."""
PART = ".part-"
ABANDONED_S = 24 * 3600
"""Seconds after which something that was being written belongs to nobody any more."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class DirectoryRemote:
    """The results in the directory ``root``."""

    def __init__(self, root: Path, copy: Copy) -> None:
        """``copy`` copies a file to a new one and keeps its holes. Nothing is opened yet."""
        self.name = str(root)
        self._root = root
        self._copy = copy
        self._swept = False

    def look_up(self, key: str) -> SharedResult | None:
        """See :class:`imagekit.pipeline.result_store.Remote`."""
        with self._opened() as root, self._result(root, key) as folder:
            if folder is None:
                return None
            with self._file(folder, DESCRIPTION) as fd:
                try:
                    text = read_bounded(fd, MOST_DESCRIPTION, Path(DESCRIPTION))
                except SpecError as error:
                    raise UnusableResultError(str(error)) from None
            return parse_shared(text, key)

    def fetch(self, result: SharedResult, names: Sequence[str], target: Path) -> None:
        """See :class:`imagekit.pipeline.result_store.Remote`."""
        with self._opened() as root, self._result(root, result.key) as folder:
            if folder is None:
                raise UnusableResultError("it vanished")
            for name in names:
                with self._file(folder, name) as fd:
                    if os.fstat(fd).st_size != result.files[name].size:
                        raise UnusableResultError(f"{name} has another size than it should")
                    self._copy(Path(f"/proc/self/fd/{fd}"), target / name)
            with contextlib.suppress(OSError):  # tells who tidies up what is in use
                os.utime(folder.fd)

    def publish(self, result: SharedResult, directory: Path, *, replace: bool) -> None:
        """See :class:`imagekit.pipeline.result_store.Remote`."""
        with self._opened() as root:
            self._sweep(root)
            part = f"{PART}{secrets.token_hex(8)}"
            os.mkdir(part, 0o700, dir_fd=root.fd)
            try:
                with contextlib.closing(root.folder(part)) as folder:
                    for name in result.files:
                        self._copy(directory / name, folder.path(name))
                        folder.path(name).chmod(0o600)
                    folder.write(DESCRIPTION, result.to_json(), 0o600)
                if replace:
                    self._remove(root, result.key)
                with contextlib.closing(root.folder(result.key[:2], make=True)):
                    pass
                _put_in_place(root, part, result.key)
            finally:
                shutil.rmtree(part, ignore_errors=True, dir_fd=root.fd)

    def discard(self, key: str) -> None:
        """See :class:`imagekit.pipeline.result_store.Remote`."""
        with self._opened() as root:
            self._remove(root, key)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Held]:
        if not self._root.is_dir():
            raise HostError("there is no such directory", where=self.name)
        if reason := why_not_private(self._root):
            raise HostError(f"others could change what is in it: {reason}", where=self.name)
        with contextlib.closing(Held(open_folder(self._root))) as root:
            yield root

    @contextlib.contextmanager
    def _result(self, root: Held, key: str) -> Iterator[Held | None]:
        try:
            fd = open_at(root.fd, _place(key), _DIRECTORY)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
                raise
            raise UnusableResultError("it is not a directory") from None
        with contextlib.closing(Held(fd)) as folder:
            if not is_kept(os.fstat(fd)):
                raise UnusableResultError("others may write to it")
            yield folder

    @contextlib.contextmanager
    def _file(self, folder: Held, name: str) -> Iterator[int]:
        """An open regular file that nobody else may write to; links are not followed."""
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(regular(folder.fd, name))
                if not is_kept(os.fstat(fd)):
                    raise UnusableResultError(f"{name} belongs to others, or they may write to it")
            except (FileNotFoundError, SpecError) as error:
                raise UnusableResultError(f"{name}: {error}") from None
            yield fd

    def _remove(self, root: Held, key: str) -> None:
        """Remove a result: out of its place first, so that nobody finds half of it."""
        gone = f"{PART}{secrets.token_hex(8)}"
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            root.below(_place(key)) as (folder, name),
        ):
            os.rename(name, gone, src_dir_fd=folder.fd, dst_dir_fd=root.fd)
        with contextlib.suppress(OSError):
            root.remove(gone)  # a link or a file that stood there
        shutil.rmtree(gone, ignore_errors=True, dir_fd=root.fd)

    def _sweep(self, root: Held) -> None:
        """Remove, once, what machines have left that died while they published."""
        if self._swept:
            return
        self._swept = True
        for name in root.names():
            with contextlib.suppress(OSError):
                if name.startswith(PART) and time.time() - root.status(name).st_mtime > ABANDONED_S:
                    shutil.rmtree(name, ignore_errors=True, dir_fd=root.fd)


def _place(key: str) -> str:
    return f"{key[:2]}/{key}"


def _put_in_place(root: Held, part: str, key: str) -> None:
    with root.below(_place(key)) as (folder, name):
        try:
            os.rename(part, name, src_dir_fd=root.fd, dst_dir_fd=folder.fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
