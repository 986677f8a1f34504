"""The blocks of a file system that is changed: read from a disk, written beside it.

The disk itself is only read, so that whatever libext2fs is led to by a hostile file system, nothing
of it is written. What was written lies in a file of its own, where it is read again.

Source of the structures: lib/ext2fs/ext2_io.h of e2fsprogs (struct_io_manager, struct_io_channel),
which is part of the stable interface of libext2fs.so.2.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

UNIT = 1024
"""Bytes; the smallest block of ext2 to ext4, and the size of a superblock."""

_Status = ctypes.c_long  # errcode_t
_Pointer = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(_Status, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(_Pointer))
_CLOSE = ctypes.CFUNCTYPE(_Status, _Pointer)
_SIZE = ctypes.CFUNCTYPE(_Status, _Pointer, ctypes.c_int)
_BLOCK = ctypes.CFUNCTYPE(_Status, _Pointer, ctypes.c_ulong, ctypes.c_int, _Pointer)
_BLOCK64 = ctypes.CFUNCTYPE(_Status, _Pointer, ctypes.c_ulonglong, ctypes.c_int, _Pointer)


class _Channel(ctypes.Structure):
    """struct_io_channel."""

    _fields_ = (
        ("magic", _Status),
        ("manager", _Pointer),
        ("name", ctypes.c_char_p),
        ("block_size", ctypes.c_int),
        ("read_error", _Pointer),
        ("write_error", _Pointer),
        ("refcount", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("reserved", ctypes.c_long * 14),
        ("private_data", _Pointer),
        ("app_data", _Pointer),
        ("align", ctypes.c_int),
    )


class _Manager(ctypes.Structure):
    """struct_io_manager."""

    _fields_ = (
        ("magic", _Status),
        ("name", ctypes.c_char_p),
        ("open", _OPEN),
        ("close", _CLOSE),
        ("set_blksize", _SIZE),
        ("read_blk", _BLOCK),
        ("write_blk", _BLOCK),
        ("flush", _CLOSE),
        ("write_byte", _Pointer),
        ("set_option", _Pointer),
        ("get_stats", _Pointer),
        ("read_blk64", _BLOCK64),
        ("write_blk64", _BLOCK64),
        ("discard", _Pointer),
        ("cache_readahead", _Pointer),
        ("zeroout", _Pointer),
        ("reserved", ctypes.c_long * 14),
    )


class Blocks:
    """``size`` bytes at ``start`` of the file ``disk``, and what was written of them.

    ``written`` is the file that takes the writes, at the same places counted from ``start``. No
    more than ``most`` bytes are written. ``magics`` are those that libext2fs has for managers and
    channels. :attr:`manager` is what it is given.
    """

    def __init__(
        self, disk: int, written: int, start: int, size: int, most: int, magics: tuple[int, int]
    ) -> None:
        self._disk, self._written = disk, written
        self._start, self._size, self._most = start, size, most
        self._units: set[int] = set()
        self._channels: list[_Channel] = []
        self._channel_magic = magics[1]
        read, write = self._guarded(self._read), self._guarded(self._write)
        self._manager = _Manager(
            magic=magics[0],
            name=b"imagekit",
            open=_OPEN(self._open),
            close=_CLOSE(lambda _channel: 0),
            set_blksize=_SIZE(self._set_block_size),
            read_blk=_BLOCK(read),
            write_blk=_BLOCK(write),
            flush=_CLOSE(lambda _channel: 0),
            read_blk64=_BLOCK64(read),
            write_blk64=_BLOCK64(write),
        )

    @property
    def manager(self) -> ctypes.c_void_p:
        """A struct_io_manager, which lives as long as this."""
        return ctypes.cast(ctypes.pointer(self._manager), _Pointer)

    def runs(self) -> Iterator[tuple[int, int]]:
        """(offset from ``start``, length) in bytes of what was written, in order."""
        first = last = -1
        for unit in sorted(self._units):
            if unit != last:
                if first >= 0:
                    yield first * UNIT, (last - first) * UNIT
                first = unit
            last = unit + 1
        if first >= 0:
            yield first * UNIT, (last - first) * UNIT

    def _open(self, _name: bytes, _flags: int, channel: Any) -> int:
        made = _Channel(
            magic=self._channel_magic,
            manager=ctypes.addressof(self._manager),
            name=b"imagekit",
            block_size=UNIT,
            refcount=1,
        )
        self._channels.append(made)
        channel[0] = ctypes.addressof(made)
        return 0

    def _set_block_size(self, channel: int, size: int) -> int:
        if size < UNIT or size % UNIT:
            return errno.EINVAL
        _Channel.from_address(channel).block_size = size
        return 0

    def _guarded(
        self, action: Callable[[int, int, int], None]
    ) -> Callable[[int, int, int, int], int]:
        """``action`` for the bytes that a call means. An exception that left here would be lost
        (ctypes, Callback functions)."""

        def called(channel: int, block: int, count: int, data: int) -> int:
            try:
                block_size = _Channel.from_address(channel).block_size
                # A negative count is one of bytes.
                length = -count if count < 0 else count * block_size
                offset = block * block_size
                if offset + length > self._size:
                    return errno.EIO
                action(offset, length, data)
            except OSError as error:
                return error.errno or errno.EIO
            except Exception:
                return errno.EIO
            return 0

        return called

    def _read(self, offset: int, length: int, data: int) -> None:
        into = (ctypes.c_char * length).from_address(data)
        memoryview(into).cast("B")[:] = self.content(offset, length)

    def content(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` from ``start``, as they are now; raises OSError."""
        first, last = offset // UNIT, -(-(offset + length) // UNIT)
        mine = [unit in self._units for unit in range(first, last)]
        if not any(mine):
            return _exactly(self._disk, self._start + offset, length)
        if all(mine):
            return _exactly(self._written, offset, length)
        pieces = []
        for unit, is_mine in enumerate(mine, first):
            start, stop = max(unit * UNIT, offset), min((unit + 1) * UNIT, offset + length)
            if is_mine:
                pieces.append(_exactly(self._written, start, stop - start))
            else:
                pieces.append(_exactly(self._disk, self._start + start, stop - start))
        return b"".join(pieces)

    def _write(self, offset: int, length: int, data: int) -> None:
        if offset % UNIT or length % UNIT:
            raise OSError(errno.EINVAL, "not a whole block")
        content = ctypes.string_at(data, length)
        # Bitmaps and descriptors are written all, and few of them changed.
        if content == self.content(offset, length):
            return
        self._units.update(range(offset // UNIT, (offset + length) // UNIT))
        if len(self._units) * UNIT > self._most:
            raise OSError(errno.EFBIG, "more would be written than is allowed")
        view = memoryview(content)
        while view:
            done = os.pwrite(self._written, view, offset)
            view, offset = view[done:], offset + done


def _exactly(fd: int, offset: int, length: int) -> bytes:
    """``length`` bytes of a file; what is beyond its end reads as zeros."""
    pieces = []
    while length:
        piece = os.pread(fd, length, offset)
        if not piece:
            pieces.append(bytes(length))
            break
        pieces.append(piece)
        length, offset = length - len(piece), offset + len(piece)
    return b"".join(pieces)
