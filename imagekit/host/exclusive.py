"""One imagekit at a time in a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from imagekit.errors import BusyError, HostError
from imagekit.host.strangers import make_folder


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold ``directory``, which is made if need be, for one change (flock(2)).

    Raises BusyError when another imagekit holds it, SpecError for a directory behind a stranger's
    link, HostError.
    """
    try:
        fd = make_folder(directory)
    except OSError as error:
        raise HostError(f"cannot write there: {error.strerror}", where=str(directory)) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another imagekit is changing files here", where=str(directory)
            ) from None
        yield
    finally:
        os.close(fd)
