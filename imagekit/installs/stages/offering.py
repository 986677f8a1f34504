"""Gives apt the packages that earlier builds fetched, so that it fetches only what is new.

apt takes a file in its archives for the package if name and size are right (apt-pkg,
pkgAcqArchive): it is no judge of what it finds there. So the hook ``offer.sh`` asks for files by
their digests in the signed index, and gets none that has another. Nothing else of the pool is shown
in the sandbox: packages of one mirror are no business of the scripts of another's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from imagekit.pipeline.pool import FilePool

ANSWER = ".answer"
"""A FIFO, from which the hook reads a line when the files are there."""
MOST = 20_000
"""Files that are given to one build; Debian 13 has 70,000 packages."""
_WANTED = re.compile(r"imagekit wants ([0-9a-f]{64}) ([A-Za-z0-9][A-Za-z0-9.+~%_-]{0,250}\.deb)")
_END = "imagekit wants no more"
ESSENTIAL = {
    "minbase": "required",
    "essential": "",
    "apt": "",
    "important": "required important",
    "standard": "required important standard",
}
"""Priorities that a variant of mmdebstrap installs besides what is essential (mmdebstrap(1))."""


class Offer:
    """What is in ``directory``, an empty one, for a sandbox that can only read it.

    Use :meth:`answering` while the sandbox runs, and give :meth:`line` what it prints. Only the
    first list of wishes is granted: programs of packages come later.
    """

    def __init__(self, directory: Path, pool: FilePool) -> None:
        self.directory = directory
        self._pool = pool
        self._fifo = -1
        self._given = 0

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Be able to answer for the length of a block. Raises OSError."""
        path = self.directory / ANSWER
        os.mkfifo(path, 0o644)
        path.chmod(0o644)
        # Open for both, it waits for no reader, and the reader waits for what is written.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield
        finally:
            os.close(self._fifo)
            self._fifo = -1

    def line(self, text: str) -> bool:
        """Take a line that was printed; says whether it was meant for this."""
        if text == _END:
            if self._fifo >= 0 and self._given <= MOST:
                self._given = MOST + 1
                os.write(self._fifo, b"\n")
            return True
        wanted = _WANTED.fullmatch(text)
        if wanted is None:
            return False
        if self._given < MOST:
            self._given += 1
            target = self.directory / wanted[2]
            # Without it, apt fetches the package.
            with contextlib.suppress(OSError):
                if self._pool.copy(wanted[1], target):
                    target.chmod(0o644)
        return True
