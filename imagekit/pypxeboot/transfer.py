"""What every transfer from a boot server obeys: a deadline, a size limit, a lowest pace."""

from __future__ import annotations

import hashlib
import os
import time

from imagekit.errors import DownloadError

GRACE_SECONDS = 10.0
"""A transfer's pace is looked at only after this long: slow starts are normal."""

LOWEST_BYTES_PER_SECOND = 1024
"""A server slower than this on average is treated as a slow drip, not as a slow line."""


class NotFoundError(DownloadError):
    """The server answered, and it does not have the file (TFTP error 1, HTTP 404 or 410)."""


class Deadline:
    """A point in time by which something must be over; ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self, doing: str, where: str | None = None) -> None:
        """Raise DownloadError, worded with ``doing``, once the time is over."""
        if self.remaining() <= 0:
            raise DownloadError(
                f"{doing} was not finished after {self.seconds:.0f} s",
                where=where,
                hint="see that the server answers quickly, or raise --timeout",
            )

    def within(self, seconds: float) -> Deadline:
        """A deadline ``seconds`` from now that is not later than this one."""
        return Deadline(min(seconds, self.remaining()))


class Receiver:
    """Takes the bytes of one file, in memory or into an open file descriptor.

    Raises DownloadError when more than ``max_bytes`` arrive or when they drip.
    """

    def __init__(
        self, name: str, max_bytes: int, deadline: Deadline, fd: int | None = None
    ) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self.size = 0
        self._deadline = deadline
        self._fd = fd
        self._memory = bytearray()
        self._digest = hashlib.sha256()
        self._started = time.monotonic()

    def announce(self, size: int) -> None:
        """Refuse early what the server says will be too big (tsize, Content-Length)."""
        if size > self.max_bytes - self.size:
            raise DownloadError(
                f"the server announces {size} bytes, the limit is {self.max_bytes}",
                where=self.name,
                hint="raise the size limit in the profile if this file is wanted",
            )

    def write(self, data: bytes) -> None:
        """Take ``data``, the next bytes of the file."""
        self._deadline.check("the transfer", self.name)
        if len(data) > self.max_bytes - self.size:
            raise DownloadError(
                f"the file is larger than the limit of {self.max_bytes} bytes",
                where=self.name,
                hint="raise the size limit in the profile if this file is wanted",
            )
        self.size += len(data)
        self._digest.update(data)
        if self._fd is None:
            self._memory += data
        else:
            _write_all(self._fd, data)
        self._check_pace()

    def pad(self, multiple: int) -> None:
        """Add zero bytes up to a multiple of ``multiple`` bytes."""
        missing = -self.size % multiple
        if missing:
            self.write(bytes(missing))

    def content(self) -> bytes:
        """What was kept in memory (empty when a file descriptor took the bytes)."""
        return bytes(self._memory)

    def sha256(self) -> str:
        """Hex digest of everything received so far."""
        return self._digest.hexdigest()

    def _check_pace(self) -> None:
        elapsed = time.monotonic() - self._started
        if elapsed > GRACE_SECONDS and self.size < LOWEST_BYTES_PER_SECOND * elapsed:
            raise DownloadError(
                f"only {self.size} bytes came in {elapsed:.0f} s: the server drips",
                where=self.name,
            )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            raise DownloadError(f"cannot store the file: {error.strerror}") from error
