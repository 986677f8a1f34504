"""A large file as what others do not have of it: pieces to copy from them, and the rest.

Trees, disks and their formats hold the same files at other places, and places are multiples of a
sector: tar pads to 512 bytes, file systems to 4096. So blocks of the files that there are already
are looked up by their content, at every sector of the new one.

A difference file has the bytes that were found nowhere, then a table of pieces (:data:`_PIECE`),
then :data:`_TRAILER`. What no piece covers is zeros.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECTOR = 512
BLOCK = 4096
"""Bytes that must be equal, of a whole file, before a place in it is tried; of a difference file,
whose pieces are short, a sector."""
MAGIC = b"IKDIFF01"
PROBE = 32 << 20
"""Bytes after which it shows whether a file has anything in common with the others."""
_PIECE = struct.Struct("<QQqQ")
"""Offset and length in the whole file, number of the file it is in (-1: this one), offset there."""
_TRAILER = struct.Struct("<8sQQ")
""":data:`MAGIC`, number of pieces, size of the whole file in bytes."""
_WINDOW = 1 << 20
_STRETCH = 64 << 10
_ZEROS = bytes(BLOCK)
_OWN = -1


@dataclass(frozen=True)
class _Piece:
    offset: int
    length: int
    source: int
    at: int


class _Window:
    """Reads an open file; what is asked for lies mostly in the stretch that was read last."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self._at = 0
        self._content = b""

    def read(self, offset: int, length: int) -> bytes:
        start = offset - self._at
        if start < 0 or start + length > len(self._content):
            self._at, start = offset, 0
            self._content = os.pread(self.fd, max(_WINDOW, length), offset)
        return self._content[start : start + length]


class Source:
    """A file to copy from, with an index of its blocks; :meth:`close` it."""

    def __init__(self, path: Path, unit: int) -> None:
        """``unit`` is :data:`BLOCK` or :data:`SECTOR`. Raises OSError."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.unit = unit
        self.window = _Window(self._fd)
        self._places: dict[int, int] = {}
        try:
            self._index()
        except BaseException:
            os.close(self._fd)
            raise

    def _index(self) -> None:
        zeros = _ZEROS[: self.unit]
        for start, end in _extents(self._fd, self.window.size):
            for offset in range(start, end, _WINDOW):
                content = os.pread(self._fd, min(_WINDOW, end - offset), offset)
                for at in range(0, len(content) - self.unit + 1, self.unit):
                    block = content[at : at + self.unit]
                    if block != zeros:
                        self._places.setdefault(hash(block), offset + at)

    def find(self, block: bytes) -> int | None:
        """Where a block of the unit's size is, or None."""
        at = self._places.get(hash(block))
        return at if at is not None and self.window.read(at, self.unit) == block else None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def write_difference(path: Path, sources: Sequence[Source], target: Path, *, most: float) -> bool:
    """Write ``path`` as a difference to the new file ``target``; False, and no target, if that is
    larger than ``most`` times the data of ``path``.

    It can be put together from the files of ``sources``, in this order. Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _new(target) as out:
            scan = _Scan(_Window(fd), sources, out, most)
            small = scan.run() and scan.finish() <= most * scan.data
    finally:
        os.close(fd)
    if not small:
        target.unlink()
    return small


def put_together(difference: Path, sources: Sequence[Path], target: Path) -> None:
    """Write the whole file of which ``difference`` was made to the new file ``target``, sparse.

    ``sources`` are the files that it was made with. Raises OSError, and ValueError when they do not
    fit each other; then there is no target.
    """
    with contextlib.ExitStack() as stack:
        files = [_opened(stack, path) for path in (*sources, difference)]
        pieces, size = _table(files[-1])
        sizes = [os.fstat(fd).st_size for fd in files]
        try:
            with _new(target) as out:
                os.ftruncate(out.fileno(), size)
                for piece in pieces:
                    if not _OWN <= piece.source < len(sources):
                        raise ValueError(f"{difference} was made with more files")
                    within = piece.at + piece.length <= sizes[piece.source]
                    if not within or piece.offset + piece.length > size:
                        raise ValueError(f"{difference} does not fit the files it was made with")
                    _copy(files[piece.source], piece, out.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise


class _Scan:
    """Goes through a file from its start to its end."""

    def __init__(
        self, new: _Window, sources: Sequence[Source], out: IO[bytes], most: float
    ) -> None:
        self._new = new
        self._sources = sources
        self._out = out
        self._most = most
        self._pieces: list[_Piece] = []
        self._written = 0
        self._run: tuple[int, int] | None = None
        """The source that was copied from last, and how much further on it is there."""
        self.data = 0

    def run(self) -> bool:
        """Find all pieces; False when it shows early that there are few."""
        for start, end in _extents(self._new.fd, self._new.size):
            position = start
            while position < end:
                position += (
                    self._copied(position, end)
                    or self._found(position, end)
                    or self._literal(position, end)
                )
                seen = self.data + position - start
                if self._written > PROBE and self._written > self._most * seen:
                    return False
            self.data += end - start
        return True

    def _copied(self, position: int, end: int) -> int:
        """How many bytes go on as in the source that was copied from last; takes them."""
        if self._run is None:
            return 0
        number, shift = self._run
        window = self._sources[number].window
        at = position + shift
        length = 0
        want = SECTOR
        while length < end - position and at >= 0:
            want = min(want, end - position - length)
            mine = self._new.read(position + length, want)
            other = window.read(at + length, want)
            if mine != other:
                if want > SECTOR:
                    length += _common(mine, other)
                break
            length += want
            want = _STRETCH
        if length:
            self._add(_Piece(position, length, number, at))
        return length

    def _found(self, position: int, end: int) -> int:
        """How many bytes are zeros, or were found in another place of a source; takes these."""
        for number, source in enumerate(self._sources):
            block = self._new.read(position, min(source.unit, end - position))
            if block == _ZEROS[: len(block)]:
                return len(block)
            at = source.find(block) if len(block) == source.unit else None
            if at is not None:
                self._run = number, at - position
                return self._copied(position, end)
        return 0

    def _literal(self, position: int, end: int) -> int:
        length = min(SECTOR, end - position)
        self._out.write(self._new.read(position, length))
        self._add(_Piece(position, length, _OWN, self._written))
        self._written += length
        return length

    def _add(self, piece: _Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if (
            last is not None
            and last.source == piece.source
            and last.offset + last.length == piece.offset
            and last.at + last.length == piece.at
        ):
            self._pieces[-1] = _Piece(last.offset, last.length + piece.length, last.source, last.at)
        else:
            self._pieces.append(piece)

    def finish(self) -> int:
        """Write the table; returns the bytes of the whole difference."""
        for p in self._pieces:
            self._out.write(_PIECE.pack(p.offset, p.length, p.source, p.at))
        self._out.write(_TRAILER.pack(MAGIC, len(self._pieces), self._new.size))
        return self._written + len(self._pieces) * _PIECE.size + _TRAILER.size


def _common(one: bytes, other: bytes) -> int:
    """How many whole sectors two stretches that differ have in common at their start."""
    at = 0
    while one[at : at + SECTOR] == other[at : at + SECTOR]:
        at += SECTOR
    return at


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of every stretch that may hold data (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, end = end, size
        yield start, end


def _table(fd: int) -> tuple[list[_Piece], int]:
    """The pieces of an open difference file, and the size of the whole."""
    size = os.fstat(fd).st_size
    end = size - _TRAILER.size
    if end < 0:
        raise ValueError("a difference file that is cut off")
    magic, count, whole = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end))
    if magic != MAGIC or count * _PIECE.size > end:
        raise ValueError("no difference file")
    table = os.pread(fd, count * _PIECE.size, end - count * _PIECE.size)
    return [_Piece(*fields) for fields in _PIECE.iter_unpack(table)], whole


def _copy(source: int, piece: _Piece, target: int) -> None:
    for done in range(0, piece.length, _WINDOW):
        content = os.pread(source, min(_WINDOW, piece.length - done), piece.at + done)
        if os.pwrite(target, content, piece.offset + done) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _new(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _opened(stack: contextlib.ExitStack, path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
