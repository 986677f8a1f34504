"""LZO1X blocks, unpacked by liblzo2, the library of the program lzop.

It is loaded when this module is: a confined reader cannot load anything later. Interface and return
values: lzo/lzo1x.h, lzo/lzoconf.h.
"""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass

from imagekit.errors import HostError

_SOURCE = "liblzo2.so.2"


@dataclass(frozen=True)
class Block:
    """A block of an lzop file: offset and bytes of its data, bytes that it unpacks to, and their
    Adler-32 if the file has it."""

    start: int
    packed: int
    unpacked: int
    adler32: int | None


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_SOURCE)
        library.lzo1x_decompress_safe.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


_LZO = _library()


def unpack(data: bytes, block: Block) -> bytes:
    """What ``data`` of ``block`` unpacks to; raises ValueError when it is damaged, HostError.

    Blocks that did not get smaller are stored as they are.
    """
    content = data if block.packed == block.unpacked else _decompress(data, block.unpacked)
    if block.adler32 is not None and zlib.adler32(content) != block.adler32:
        raise ValueError("a checksum of lzo data does not match")
    return content


def _decompress(data: bytes, size: int) -> bytes:
    if _LZO is None:
        raise HostError(
            f"the library {_SOURCE} is not on this host", hint="apt-get install liblzo2-2"
        )
    target = ctypes.create_string_buffer(size)
    length = ctypes.c_size_t(size)
    source = (data, ctypes.c_size_t(len(data)), target, ctypes.byref(length), None)
    code = _LZO.lzo1x_decompress_safe(*source)
    if code != 0 or length.value != size:
        raise ValueError(f"lzo data does not unpack (LZO error {code})")
    return target.raw
