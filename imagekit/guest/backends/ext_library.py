"""libext2fs, by which e2fsprogs itself reads and writes ext2, ext3 and ext4.

Sources: lib/ext2fs/ext2fs.h of e2fsprogs (functions, flags), ext2_err.et (its errors). The library
is loaded when this module is imported: who gives up the file system afterwards can still use it.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

RW, WIDE = 0x1, 0x20000
"""EXT2_FLAG_RW, and EXT2_FLAG_64BITS: block numbers beyond 32 bits."""
FILE_WRITE = 1  # EXT2_FILE_WRITE
CHANGED, ABORT = 1, 2  # DIRENT_CHANGED, DIRENT_ABORT

_BASE = 2133571328  # ERROR_TABLE_BASE_ext2 of ext2_err.h
DIRECTORY_FULL = _BASE + 38  # EXT2_ET_DIR_NO_SPACE
_NO_BLOCK, _NO_INODE = _BASE + 72, _BASE + 73  # EXT2_ET_BLOCK_ALLOC_FAIL, EXT2_ET_INODE_ALLOC_FAIL
_NOT_FOUND, _NO_KEY = _BASE + 76, _BASE + 162  # EXT2_ET_FILE_NOT_FOUND, EXT2_ET_EA_KEY_NOT_FOUND
_ERRNO = {
    _NO_BLOCK: errno.ENOSPC,
    _NO_INODE: errno.ENOSPC,
    _NOT_FOUND: errno.ENOENT,
    _NO_KEY: errno.ENODATA,
}

Pointer = ctypes.c_void_p
Entry = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_int, ctypes.c_int, Pointer, Pointer)
"""What is called for each entry of a directory: the entry, its offset, the block's size, the block,
and what was given along."""
_UINT, _INT, _U64 = ctypes.c_uint32, ctypes.c_int, ctypes.c_uint64
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "open2": (
        *(ctypes.c_char_p, ctypes.c_char_p, _INT, _INT, ctypes.c_uint, Pointer),
        ctypes.POINTER(Pointer),
    ),
    "read_bitmaps": (Pointer,),
    "close_free": (ctypes.POINTER(Pointer),),
    "lookup": (Pointer, _UINT, ctypes.c_char_p, _INT, Pointer, ctypes.POINTER(_UINT)),
    "read_inode_full": (Pointer, _UINT, Pointer, _INT),
    "write_inode_full": (Pointer, _UINT, Pointer, _INT),
    "write_new_inode": (Pointer, _UINT, Pointer),
    "new_inode": (Pointer, _UINT, _INT, Pointer, ctypes.POINTER(_UINT)),
    "extent_open2": (Pointer, _UINT, Pointer, ctypes.POINTER(Pointer)),
    "file_open2": (Pointer, _UINT, Pointer, _INT, ctypes.POINTER(Pointer)),
    "file_write": (Pointer, Pointer, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint)),
    "file_read": (Pointer, Pointer, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint)),
    "file_llseek": (Pointer, _U64, _INT, ctypes.POINTER(_U64)),
    "file_close": (Pointer,),
    "link": (Pointer, _UINT, ctypes.c_char_p, _UINT, _INT),
    "unlink": (Pointer, _UINT, ctypes.c_char_p, _UINT, _INT),
    "mkdir": (Pointer, _UINT, _UINT, ctypes.c_char_p),
    "symlink": (Pointer, _UINT, _UINT, ctypes.c_char_p, ctypes.c_char_p),
    "expand_dir": (Pointer, _UINT),
    "dir_iterate": (Pointer, _UINT, _INT, Pointer, Entry, Pointer),
    "punch": (Pointer, _UINT, Pointer, Pointer, _U64, _U64),
    "free_ext_attr": (Pointer, _UINT, Pointer),
    "xattrs_open": (Pointer, _UINT, ctypes.POINTER(Pointer)),
    "xattrs_read": (Pointer,),
    "xattr_get": (Pointer, ctypes.c_char_p, ctypes.POINTER(Pointer), ctypes.POINTER(_U64)),
    "xattrs_close": (ctypes.POINTER(Pointer),),
}
"""Functions that return an errcode_t, less ``ext2fs_``, with the types of their arguments."""

_LIBRARY = ctypes.CDLL("libext2fs.so.2")
_MESSAGES = ctypes.CDLL("libcom_err.so.2")
_LIBRARY.initialize_ext2_error_table()
_MESSAGES.error_message.restype = ctypes.c_char_p
_MESSAGES.error_message.argtypes = (ctypes.c_long,)


def _functions() -> dict[str, Callable[..., int]]:
    found: dict[str, Callable[..., int]] = {}
    for name, types in _SIGNATURES.items():
        function = getattr(_LIBRARY, f"ext2fs_{name}")
        function.restype, function.argtypes = ctypes.c_long, types
        found[name] = function
    return found


_CALLS = _functions()
_ALLOCATED = _LIBRARY.ext2fs_inode_alloc_stats2
_ALLOCATED.restype, _ALLOCATED.argtypes = None, (Pointer, _UINT, _INT, _INT)
_HAS_BLOCKS = _LIBRARY.ext2fs_inode_has_valid_blocks2
_HAS_BLOCKS.restype, _HAS_BLOCKS.argtypes = _INT, (Pointer, Pointer)
_EXTENT_FREE = _LIBRARY.ext2fs_extent_free
_EXTENT_FREE.restype, _EXTENT_FREE.argtypes = None, (Pointer,)


class ExtError(OSError):
    """A call failed; ``code`` is libext2fs's own number, ``errno`` the nearest of the system's:
    EUCLEAN for what only a damaged file system answers."""

    def __init__(self, name: str, code: int) -> None:
        said = (_MESSAGES.error_message(code) or b"").decode("utf-8", "replace")
        number = code if 0 < code < 4096 else _ERRNO.get(code, errno.EUCLEAN)
        super().__init__(number, f"{name}: {said}")
        self.code = code


def call(name: str, *arguments: object) -> None:
    """Call ``ext2fs_NAME``; raises ExtError."""
    code = _CALLS[name](*arguments)
    if code:
        raise ExtError(name, code)


def allocated(fs: Pointer, inode: int, change: int, *, directory: bool) -> None:
    """Count an inode as used (+1) or free (-1) (ext2fs_inode_alloc_stats2)."""
    _ALLOCATED(fs, inode, change, int(directory))


def has_blocks(fs: Pointer, record: object) -> bool:
    """Whether an inode's block field means blocks, not a short link or a device."""
    return bool(_HAS_BLOCKS(fs, record))


def start_extents(fs: Pointer, inode: int, record: object) -> None:
    """Make the block field of a new inode an empty tree of extents, as debugfs's write does."""
    handle = Pointer()
    call("extent_open2", fs, inode, record, ctypes.byref(handle))
    _EXTENT_FREE(handle)


def magics() -> tuple[int, int]:
    """The numbers by which libext2fs knows an io_manager and an io_channel.

    Managers begin with theirs; a channel's is two less (ext2_err.et: IO_CHANNEL, UNIX_IO_CHANNEL,
    IO_MANAGER).
    """
    manager = Pointer.in_dll(_LIBRARY, "unix_io_manager")
    magic = ctypes.c_long.from_address(manager.value or 0).value
    return magic, magic - 2
