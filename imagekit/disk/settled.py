"""A file as it was when it was opened, whoever else may write to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagekit.disk.extents import FICLONE, copy_data, opened
from imagekit.host.outfile import by_descriptor, os_errors
from imagekit.host.ownership import other_writers, owner_is_trusted


@contextlib.contextmanager
def settled(path: Path, scratch: Path) -> Iterator[Path]:
    """A path to the content of ``path`` that nobody else can change or replace in the block.

    It leads through a descriptor, so it is good for programs of ours too, and for its length only.
    A file that only we and root can write to is used as it is; of any other a copy without a name
    is made in ``scratch``, which shares blocks where the file system can. Errors of the block name
    ``path``. Raises as :func:`opened`.
    """
    with opened(path) as fd:
        trusted = owner_is_trusted(os.fstat(fd)) and not other_writers(fd)
        if trusted or not stat.S_ISREG(os.fstat(fd).st_mode):
            with by_descriptor(fd, path) as name:
                yield name
            return
        with os_errors(scratch):
            copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed below
        with copy:
            with os_errors(scratch):
                try:
                    fcntl.ioctl(copy.fileno(), FICLONE, fd)
                except OSError:
                    copy_data(fd, copy.fileno())
            with by_descriptor(copy.fileno(), path) as name:
                yield name
