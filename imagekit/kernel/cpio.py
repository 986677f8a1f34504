"""A cpio archive (newc) read piece by piece: names and sizes, no contents but a chosen few.

Format: Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAGICS = (b"070701", b"070702")
_HEADER = 110
_NAME_MAX = 4096


class CpioError(Exception):
    """The archive is damaged; the text says how. Never leaves ``imagekit.kernel``."""


@dataclass(frozen=True)
class CpioEntry:
    """One member: path without leading slash, st_mode, size in bytes."""

    name: str
    mode: int
    size: int


class CpioReader:
    """Feed it the archive in pieces of any size; ``entry`` is called for each member.

    ``keep(entry)`` chooses members whose contents go to ``content(entry, bytes)`` (the caller
    bounds their size). After the trailer it is ``done`` until the next header, NULs between are
    skipped, as the kernel does.
    """

    def __init__(
        self,
        entry: Callable[[CpioEntry], None],
        keep: Callable[[CpioEntry], bool],
        content: Callable[[CpioEntry, bytes], None],
    ) -> None:
        self._entry, self._keep, self._content = entry, keep, content
        self._buffer = bytearray()
        self._skip = 0
        self._kept: CpioEntry | None = None
        self._started = False
        self.done = False

    def feed(self, piece: bytes | memoryview, *, stop_at_end: bool = False) -> int:
        """Read ``piece``; how many bytes of it remain unread, which is 0 unless it was told to stop
        at the trailer and did. Raises CpioError.
        """
        dropped = min(self._skip, len(piece))
        self._skip -= dropped
        self._buffer += piece[dropped:]
        position = 0
        while self._skip == 0:
            if self.done and stop_at_end:
                break
            used = self._step(position)
            if used == 0:
                break
            position += used
            if position > len(self._buffer):
                self._skip = position - len(self._buffer)
                position = len(self._buffer)
        del self._buffer[:position]
        if not (self.done and stop_at_end):
            return 0
        left = len(self._buffer)
        self._buffer.clear()
        return left

    def finish(self) -> None:
        """The stream is over; raises CpioError when the archive is not."""
        if self._started and not self.done:
            raise CpioError("the cpio archive is cut off")

    def _step(self, at: int) -> int:
        """Bytes that one step takes from the buffer at ``at`` (may pass its end), 0: need more."""
        buffer = self._buffer
        if self._kept is not None:
            size = self._kept.size
            if len(buffer) - at < size:
                return 0
            self._content(self._kept, bytes(buffer[at : at + size]))
            self._kept = None
            return size + (-size & 3)
        if self.done or not self._started:
            zeros = _leading_zeros(buffer, at)
            if zeros:
                return zeros
        if len(buffer) - at < _HEADER:
            return 0
        return self._header(at)

    def _header(self, at: int) -> int:
        buffer = self._buffer
        if bytes(buffer[at : at + 6]) not in MAGICS:
            raise CpioError("a cpio header is expected and something else is there")
        try:
            fields: tuple[int, ...] = struct.unpack(
                ">13I", binascii.unhexlify(buffer[at + 6 : at + _HEADER])
            )
        except (binascii.Error, ValueError) as error:
            raise CpioError("a cpio header is damaged") from error
        mode, size, name_size = fields[1], fields[6], fields[11]
        if not 0 < name_size <= _NAME_MAX:
            raise CpioError("a cpio header has an impossible name length")
        padded = (_HEADER + name_size + 3) & ~3
        if len(buffer) - at < padded:
            return 0
        raw = bytes(buffer[at + _HEADER : at + _HEADER + name_size - 1])
        self._started, self.done = True, raw == b"TRAILER!!!"
        if self.done:
            return padded
        entry = CpioEntry(raw.decode("utf-8", "surrogateescape").lstrip("/"), mode, size)
        if entry.name.startswith("./"):
            entry = CpioEntry(entry.name[2:], mode, size)
        self._entry(entry)
        if size and self._keep(entry):
            self._kept = entry
            return padded
        return padded + size + (-size & 3)


def _leading_zeros(buffer: bytearray, at: int) -> int:
    """NUL bytes at ``at``, counted in blocks so that gigabytes of them cost little."""
    end = at
    block = bytes(4096)
    while buffer.startswith(block, end):
        end += len(block)
    while end < len(buffer) and buffer[end] == 0:
        end += 1
    return end - at
