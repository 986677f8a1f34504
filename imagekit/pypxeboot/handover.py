"""Handing a result to the toolstack: fresh files, and one of three text formats.

Sources: libxl_bootloader.c (simple0: items of at most 8191 bytes; files are mapped and then
unlinked), xend's BootLoader.py and sxp.py (SXP through a FIFO), tools/pygrub (all three formats).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, SpecError

FORMATS = ("sxp", "simple", "simple0")
MAX_ITEM = 8191
"""Bytes; libxl drops a longer ``kernel ...``, ``ramdisk ...`` or ``args ...``."""

PV_COMMAND_LINE = 1024
"""Bytes with the final zero; xen/include/public/xen.h, MAX_GUEST_CMDLINE."""

FIFO_SECONDS = 10.0


@dataclass(frozen=True)
class Result:
    """What to boot: absolute paths of files the toolstack may delete, and the command line."""

    kernel: Path
    ramdisk: Path | None
    args: str


def render(result: Result, form: str) -> bytes:
    """``result`` in the format ``form``; raises SpecError for what that format cannot carry."""
    items = [("kernel", str(result.kernel))]
    if result.ramdisk is not None:
        items.append(("ramdisk", str(result.ramdisk)))
    if result.args:
        items.append(("args", result.args))
    for name, value in items:
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
            raise SpecError(f"control characters in the {name} cannot be handed to the toolstack")
        if len(name) + 1 + len(_encode(value)) > MAX_ITEM:
            raise SpecError(f"the {name} is longer than the {MAX_ITEM} bytes a toolstack takes")
    if form == "sxp":
        return _encode("linux " + "".join(f"({name} {_quote(value)})" for name, value in items))
    end = {"simple": "\n", "simple0": "\0"}[form]
    return _encode("".join(f"{name} {value}{end}" for name, value in items) + end)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Output:
    """The place the toolstack reads: a file, a FIFO, or standard output.

    It is opened before anything else happens: xend sits in ``open(2)`` on its FIFO and would wait
    for ever for a program that failed without opening it. Nothing is written until :meth:`write`.
    """

    def __init__(self, path: str | None) -> None:
        self._created: Path | None = None
        if path is None or path == "-":
            self._fd = os.dup(sys.stdout.fileno())
            return
        try:
            self._fd = self._open(Path(path))
        except OSError as error:
            raise HostError(f"cannot open the output: {error.strerror}", where=path) from error

    def _open(self, path: Path) -> int:
        end = time.monotonic() + FIFO_SECONDS
        while True:
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                created = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self._created = path
                return created
            except OSError as error:
                # ENXIO: a FIFO that nobody reads yet.
                if error.errno != errno.ENXIO or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def write(self, data: bytes) -> None:
        """Give ``data`` to the toolstack; raises HostError when it has gone away."""
        try:
            os.set_blocking(self._fd, True)
            if stat.S_ISREG(os.fstat(self._fd).st_mode) and self._created is None:
                with suppress(OSError):
                    os.ftruncate(self._fd, 0)
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise HostError(f"cannot write the result: {error.strerror}") from error
        self._created = None

    def close(self) -> None:
        """Close it; a file that we created and never wrote is removed."""
        os.close(self._fd)
        if self._created is not None:
            self._created.unlink(missing_ok=True)


class FreshFiles:
    """New files with unpredictable names in the output directory, deleted unless kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._paths: list[Path] = []
        if not directory.is_dir():
            raise SpecError(
                "the output directory does not exist",
                where=str(directory),
                hint="create it, or give another with --output-directory",
            )

    def create(self, prefix: str) -> tuple[int, Path]:
        """An open descriptor (read and write) and the path of a new file, mode 0600."""
        try:
            fd, name = tempfile.mkstemp(prefix=prefix, dir=self.directory)
        except OSError as error:
            where = str(self.directory)
            raise HostError(f"cannot create a file: {error.strerror}", where=where) from error
        self._paths.append(Path(name))
        return fd, Path(name)

    def drop(self, path: Path) -> None:
        """Delete one file now."""
        path.unlink(missing_ok=True)
        self._paths.remove(path)

    def keep(self) -> None:
        """The files belong to the toolstack from now on."""
        self._paths.clear()

    def discard(self) -> None:
        """Delete every file that was not kept."""
        while self._paths:
            self._paths.pop().unlink(missing_ok=True)


@contextmanager
def fresh_files(directory: Path) -> Iterator[FreshFiles]:
    """FreshFiles that are deleted when the block ends, unless ``keep`` was called."""
    files = FreshFiles(directory)
    try:
        yield files
    finally:
        files.discard()
