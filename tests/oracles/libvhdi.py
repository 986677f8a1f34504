"""Reads VHD chains by libvhdi (Joachim Metz), which knows nothing of our code.

Source: libvhdi.h of libvhdi 20210425; LIBVHDI_OPEN_READ is 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from pathlib import Path

OPEN_READ = 1


def available() -> bool:
    """Whether the library is on this host."""
    return ctypes.util.find_library("vhdi") is not None


def read_chain(chain: list[Path]) -> bytes:
    """The content of the disk that ``chain`` is, the leaf first and its base last."""
    library = ctypes.CDLL(ctypes.util.find_library("vhdi") or "libvhdi.so.1")
    with contextlib.ExitStack() as stack:
        files = []
        for path in chain:
            file = ctypes.c_void_p()
            _check(library.libvhdi_file_initialize(ctypes.byref(file), None))
            stack.callback(library.libvhdi_file_free, ctypes.byref(file), None)
            _check(library.libvhdi_file_open(file, str(path).encode(), OPEN_READ, None))
            stack.callback(library.libvhdi_file_close, file, None)
            files.append(file)
        for child, parent in zip(reversed(files[:-1]), reversed(files[1:]), strict=True):
            _check(library.libvhdi_file_set_parent_file(child, parent, None))
        size = ctypes.c_uint64()
        _check(library.libvhdi_file_get_media_size(files[0], ctypes.byref(size), None))
        data = ctypes.create_string_buffer(size.value)
        read = library.libvhdi_file_read_buffer_at_offset
        read.restype = ctypes.c_ssize_t
        count = read(files[0], data, ctypes.c_size_t(size.value), ctypes.c_int64(0), None)
        assert count == size.value
        return data.raw


def _check(result: int) -> None:
    assert result == 1, "libvhdi refused"
