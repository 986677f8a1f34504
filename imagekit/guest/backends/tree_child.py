"""Serves the files of a tree: run as a program of its own, as root of the tree's user namespace.

The argument is the tree's directory. Each request on standard input is a line of JSON with "call"
and its arguments, and with "size" where that many bytes follow; each answer on standard output is
a line of JSON with "value", or "errno" and "error", and again "size". Contents travel there, and
never by arguments or files.

Names are absolute in the tree and without symbolic links: every directory on the way is opened
without following one (openat(2), O_NOFOLLOW), so that no name leads out of the tree, whatever links
it holds. It uses nothing but the standard library, because it may run where the virtual environment
cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import IO

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINE = 1 << 20
MAX_PAYLOAD = 4 << 20
CALLS = (
    *("lstat", "readlink", "names", "read", "create", "append", "chown", "chmod"),
    *("rename", "symlink", "mkdir", "remove"),
)


class TreeError(Exception):
    """A request that no client of ours makes."""


class Tree:
    """The calls, on the tree at ``root``; all raise OSError."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lstat(self, path: str) -> list[int] | None:
        """Mode, owner, group and size of the name itself; None when there is none."""
        try:
            with self._parent(path) as (directory, name):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [found.st_mode, found.st_uid, found.st_gid, found.st_size]

    def readlink(self, path: str) -> str:
        """What a symbolic link says."""
        with self._parent(path) as (directory, name):
            return os.readlink(name, dir_fd=directory)

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        with self._parent(path) as (directory, name):
            opened = os.open(name, DIRECTORY, dir_fd=directory)
        try:
            return os.listdir(opened)  # noqa: PTH208 - an open directory, not a path
        finally:
            os.close(opened)

    def read(self, path: str, count: int, offset: int) -> bytes:
        """At most ``count`` bytes of a regular file."""
        with self._parent(path) as (directory, name), self._file(directory, name) as opened:
            return os.pread(opened, min(count, MAX_PAYLOAD), offset)

    def create(self, path: str, data: bytes) -> None:
        """Make a file that is not there yet, readable by root alone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._parent(path) as (directory, name):
            opened = os.open(name, flags, 0o600, dir_fd=directory)
        _write(opened, data)

    def append(self, path: str, data: bytes) -> None:
        """Add to a regular file."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._parent(path) as (directory, name):
            opened = os.open(name, flags, dir_fd=directory)
        _write(opened, data)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner of the name itself."""
        with self._parent(path) as (directory, name):
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def chmod(self, path: str, mode: int) -> None:
        """Change the permission bits of a file or directory."""
        with self._parent(path) as (directory, name):
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            os.fchmod(opened, mode)
        finally:
            os.close(opened)

    def rename(self, path: str, target: str) -> None:
        """Put a file in the place of another name."""
        with self._parent(path) as (source, old), self._parent(target) as (directory, new):
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=directory)

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link that is not there yet."""
        with self._parent(path) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def mkdir(self, path: str) -> None:
        """Make a directory, and those above it, where missing."""
        directory = os.dup(self._root)
        try:
            for name in _names(path):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=directory)
                below = os.open(name, DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = below
        finally:
            os.close(directory)

    def remove(self, path: str) -> None:
        """Remove a file, link or tree."""
        with self._parent(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory of the last name, and that name ("." for the root itself)."""
        names = _names(path)
        directory = os.dup(self._root)
        try:
            for name in names[:-1]:
                below = os.open(name, DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = below
            yield directory, names[-1] if names else "."
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _file(self, directory: int, name: str) -> Iterator[int]:
        # Opening a pipe would wait for somebody to write into it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = os.open(name, flags, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise TreeError(f"{name} is not a regular file")
            yield opened
        finally:
            os.close(opened)


def _names(path: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not path.startswith("/") or ".." in names:
        raise TreeError(f"{path!r} is not an absolute name without '..'")
    return names


def _write(opened: int, data: bytes) -> None:
    with os.fdopen(opened, "wb", buffering=0) as stream:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


def serve(
    tree: object, requests: IO[bytes], answers: IO[bytes], more: tuple[str, ...] = ()
) -> None:
    """Answer requests until there are no more: CALLS, and ``more`` that ``tree`` has."""
    while line := requests.readline(MAX_LINE):
        request = json.loads(line)
        size = request.pop("size", None)
        if size is not None:
            if size > MAX_PAYLOAD:
                raise TreeError("a request is too large")
            request["data"] = requests.read(size)
        payload = b""
        try:
            name = request.pop("call")
            if name not in (*CALLS, *more):
                raise TreeError(f"there is no call {name!r}")
            value = getattr(tree, name)(**request)
            if isinstance(value, bytes):
                payload, value = value, None
            answer = {"value": value, "size": len(payload)}
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror, "size": 0}
        except TreeError as error:
            answer = {"errno": 0, "error": str(error), "size": 0}
        answers.write(json.dumps(answer).encode() + b"\n" + payload)
        answers.flush()


def main() -> int:
    """Serve the tree that the argument names."""
    os.umask(0o022)  # directories it makes must not depend on who runs it
    serve(Tree(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
