"""Files that a QEMU gets open: as a user of its own it may open next to none by itself.

Sources: QEMU qemu-options.hx and qapi/misc.json, -add-fd and "file descriptor sets": a name
/dev/fdset/N stands for the descriptors of set N, each for one way of opening (reading, or both).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import HostError
from imagekit.vm.options import option

FIRST = 100
"""The first descriptor that QEMU gets. Its own are lower, so that none is in the way."""

_READ, _BOTH = (os.O_RDONLY,), (os.O_RDONLY, os.O_RDWR)
_LOG = (os.O_WRONLY | os.O_APPEND | os.O_CREAT,)


@dataclass
class Handed:
    """What is handed to one QEMU. Nothing is opened before ``opened``."""

    _files: list[tuple[Path, int, int]] = field(default_factory=list)
    _sets: int = 0

    def file(self, path: Path, *, writable: bool = False) -> Path:
        """The name by which QEMU opens an image, of firmware or of a disk."""
        return self._set(path, _BOTH if writable else _READ)

    def log(self, path: Path) -> Path:
        """The name by which QEMU writes a log."""
        return self._set(path, _LOG)

    def directory(self, path: Path) -> Path:
        """The name by which QEMU goes into a directory. What may be done there, its modes say."""
        number = self._take(path, os.O_RDONLY | os.O_DIRECTORY, 0)
        return Path(f"/proc/self/fd/{number}")

    def stream(self, path: Path) -> int:
        """The number of a descriptor to read a file from."""
        return self._take(path, os.O_RDONLY, 0)

    def _set(self, path: Path, ways: tuple[int, ...]) -> Path:
        self._sets += 1
        for way in ways:
            self._take(path, way, self._sets)
        return Path(f"/dev/fdset/{self._sets}")

    def _take(self, path: Path, way: int, group: int) -> int:
        self._files.append((path, way, group))
        return FIRST + len(self._files) - 1

    def argv(self) -> list[str]:
        """QEMU's options for the descriptors."""
        argv = []
        for number, (_path, _way, group) in enumerate(self._files, FIRST):
            if group:
                argv += option("-add-fd", fd=number, set=group)
        return argv

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[int, int]]:
        """Open them for a block: our descriptors and QEMU's numbers of them. Raises HostError."""
        with contextlib.ExitStack() as stack:
            numbers = {}
            for number, (path, way, _group) in enumerate(self._files, FIRST):
                try:
                    fd = os.open(path, way | os.O_CLOEXEC, 0o600)
                except OSError as error:
                    what = f"cannot be opened for QEMU: {error.strerror}"
                    raise HostError(what, where=str(path)) from None
                stack.callback(os.close, fd)
                numbers[fd] = number
            yield numbers
