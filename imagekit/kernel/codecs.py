"""The compressions of Linux kernels and initrds, unpacked piece by piece within a limit.

Magic numbers are those of Linux ``lib/decompress.c`` and of Xen ``xg_dom_bzimageloader.c``. Every
decoder works on a slice, so what follows a stream (an initrd's next segment, a kernel's size
field) is never read as part of it.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, Protocol

import lz4.block
import zstandard

from imagekit.errors import ImageError
from imagekit.kernel import lzo

Codec = Literal["gzip", "xz", "lzma", "bzip2", "lz4", "zstd", "lzo"]

MAGICS: tuple[tuple[bytes, Codec], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO\0\r\n\x1a\n", "lzo"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
"""First bytes of each stream; lz4 is the legacy frame, the only one that Linux and Xen read."""

DEFAULT_LIMIT = 512 << 20
_INPUT = 64 << 10
_ZSTD_INPUT = 1 << 10
_PIECE = 1 << 20
_LZMA_MEMORY = 512 << 20
_ZSTD_WINDOW = 256 << 20
_LZ4_BLOCK = 8 << 20
_LZ4_BLOCKS = 4096
_LZOP_BLOCK = 64 << 20


def detect(data: bytes | memoryview, offset: int = 0) -> Codec | None:
    """The codec whose magic number is at ``offset``, or None."""
    head = bytes(data[offset : offset + 9])
    return next((codec for magic, codec in MAGICS if head.startswith(magic)), None)


def decompress(
    data: bytes | memoryview, codec: Codec, *, where: str, limit: int = DEFAULT_LIMIT
) -> bytes:
    """All of the stream at the start of ``data``, at most ``limit`` bytes of output.

    Raises ImageError when the stream is damaged, cut off or larger, HostError when the program that
    unpacks it (liblzo2) is missing.
    """
    return b"".join(Stream(data, codec, where=where, limit=limit))


class Stream:
    """One compressed stream in ``data[start:stop]``; iterate once over its unpacked pieces.

    ``end`` is the offset just after the stream once the iteration is over. ``limit`` bounds the
    output in bytes. Iteration raises ImageError (damaged, cut off, over the limit) or HostError.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        codec: Codec,
        *,
        where: str,
        start: int = 0,
        stop: int | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        self.codec = codec
        self.start = start
        self.end = start
        self._data = memoryview(data)
        self._stop = len(data) if stop is None else stop
        self._where = where
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        try:
            for piece in self._pieces():
                total += len(piece)
                if total > self._limit:
                    raise self._error(f"unpacks to more than {self._limit >> 20} MiB")
                yield piece
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
            raise self._error(f"is damaged: {error}") from error
        except (OSError, EOFError, ValueError, MemoryError) as error:
            raise self._error(f"is damaged: {error or type(error).__name__}") from error

    def _pieces(self) -> Iterator[bytes]:
        if self.codec == "gzip":
            return self._incremental(_Gzip())
        if self.codec == "bzip2":
            return self._incremental(bz2.BZ2Decompressor())
        if self.codec == "xz":
            return self._incremental(lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY))
        if self.codec == "lzma":
            return self._incremental(lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY))
        if self.codec == "zstd":
            return self._incremental(_Zstd(), _ZSTD_INPUT)
        return self._lz4() if self.codec == "lz4" else self._lzo()

    def _incremental(self, decoder: _Decoder, step: int = _INPUT) -> Iterator[bytes]:
        position = self.start
        while not decoder.eof:
            chunk = b""
            if decoder.needs_input:
                chunk = bytes(self._data[position : min(position + step, self._stop)])
                position += len(chunk)
                if not chunk:
                    raise self._error("is cut off")
            yield decoder.decompress(chunk, _PIECE)
        self.end = position - len(decoder.unused_data)

    def _lz4(self) -> Iterator[bytes]:
        """Legacy frame: magic, then blocks of u32 length and data, 8 MiB each but the last.

        Nothing marks the end: it is where no length fits (lz4 ``doc/lz4_Frame_format.md``).
        """
        position = self.start + 4
        blocks = 0
        while position + 4 <= self._stop:
            (size,) = struct.unpack_from("<I", self._data, position)
            if size == 0x184C2102:
                position += 4
                continue
            if size == 0 or position + 4 + size > self._stop:
                break
            blocks += 1
            if blocks > _LZ4_BLOCKS:
                raise self._error("has too many blocks")
            chunk = bytes(self._data[position + 4 : position + 4 + size])
            try:
                piece = lz4.block.decompress(chunk, uncompressed_size=_LZ4_BLOCK)
            except lz4.block.LZ4BlockError:
                if blocks > 1 and detect(self._data, position) is not None:
                    break
                raise
            position += 4 + size
            yield piece
        if blocks == 0:
            raise self._error("is cut off")
        self.end = position

    def _lzo(self) -> Iterator[bytes]:
        """Unpacked by liblzo2, after adding up the sizes that the stream declares."""
        blocks: list[lzo.Block] = []
        end, size = _walk_lzop(self._data[: self._stop], self.start, self._error, blocks)
        if size > self._limit:
            raise self._error(f"unpacks to more than {self._limit >> 20} MiB")
        self.end = end
        for block in blocks:
            data = bytes(self._data[block.start : block.start + block.packed])
            yield lzo.unpack(data, block)

    def _error(self, what: str) -> ImageError:
        return ImageError(
            f"the {self.codec} data at byte {self.start} {what}",
            where=self._where,
            hint="the file is damaged or not what it claims to be; get it again",
        )


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib with the interface of bz2 and lzma."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


class _Zstd:
    """zstandard cannot bound its output per call: small inputs do (4 bytes make 128 KiB)."""

    needs_input = True

    def __init__(self) -> None:
        self._object = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, _max_length: int, /) -> bytes:
        return self._object.decompress(data)


class _ErrorFactory(Protocol):
    def __call__(self, what: str) -> ImageError: ...


def _walk_lzop(
    data: memoryview, start: int, error: _ErrorFactory, blocks: list[lzo.Block]
) -> tuple[int, int]:
    """End offset and unpacked size of an lzop file (Linux ``lib/decompress_unlzo.c``), whose
    blocks are added to ``blocks``."""
    try:
        version, flags_at = struct.unpack_from(">H", data, start + 9)[0], start + 16
        flags_at += 1 if version >= 0x0940 else 0
        (flags,) = struct.unpack_from(">I", data, flags_at)
        position = flags_at + (8 if flags & 0x800 else 4) + 8 + (4 if version >= 0x0940 else 0)
        position += 1 + data[position] + 4
        total = 0
        while True:
            (unpacked,) = struct.unpack_from(">I", data, position)
            if unpacked == 0:
                return position + 4, total
            (packed,) = struct.unpack_from(">I", data, position + 4)
            # F_ADLER32_D, F_CRC32_D: sums of what comes out stand first (lzop's conf.h).
            of_output = [bool(flags & 0x1), bool(flags & 0x100)]
            sums = sum(of_output)
            adler = struct.unpack_from(">I", data, position + 8)[0] if of_output[0] else None
            if packed < unpacked:
                sums += bool(flags & 0x2) + bool(flags & 0x200)
            if packed == 0 or packed > unpacked or unpacked > _LZOP_BLOCK:
                raise error("is damaged: impossible block size")
            position += 8 + 4 * sums
            blocks.append(lzo.Block(position, packed, unpacked, adler))
            position += packed
            total += unpacked
    except (struct.error, IndexError):
        raise error("is cut off") from None
