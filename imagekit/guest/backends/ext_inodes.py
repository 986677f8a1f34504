"""Inodes and directories of an open ext2, ext3 or ext4, by libext2fs.

Sources: lib/ext2fs/ext2_fs.h of e2fsprogs (struct ext2_inode_large, struct ext2_dir_entry), and
fs/ext4 and fs/attr.c of Linux for what the kernel does beside what it is asked.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable

from imagekit.guest.backends import ext_library
from imagekit.guest.backends.ext_library import ExtError, Pointer, call

ROOT = 2  # EXT2_ROOT_INO
NAME_BYTES = 255  # EXT2_NAME_LEN

INDEX, EXTENTS, TOP_DIRECTORY = 0x1000, 0x80000, 0x20000  # EXT2_INDEX_FL, EXT4_EXTENTS_FL ...
IMMUTABLE, APPEND_ONLY = 0x10, 0x20
_HUGE_FILE = 0x40000
_PLAIN = INDEX | EXTENTS | TOP_DIRECTORY | _HUGE_FILE
"""Flags of a directory that its files do not inherit, and that let it be changed."""
_MOST_INDEXED = 1 << 20
"""Bytes of a directory above which its index is worth keeping: libext2fs drops it."""
_MOST_LINKS = 64_000  # EXT4_LINK_MAX is 65000; beyond, the kernel counts no directories at all
_ACLS = (b"system.posix_acl_default", b"system.posix_acl_access", b"security.capability")
_MODE, _UID, _SIZE, _ATIME, _CTIME, _MTIME, _DTIME = 0, 2, 4, 8, 12, 16, 20
_GID, _LINKS, _FLAGS, _BLOCK, _SIZE_HIGH, _UID_HIGH, _GID_HIGH = 24, 26, 32, 40, 108, 120, 122
_EXTRA_SIZE = 128
_EXTRA_TIME = {_CTIME: 132, _MTIME: 136, _ATIME: 140}
_SHORT_LINK = 60  # sizeof(i_block)
_TYPES = {0o10: 1, 0o04: 2, 0o02: 3, 0o06: 4, 0o01: 5, 0o14: 6, 0o12: 7}
"""File types of directory entries (EXT2_FT_*) by the type bits of a mode, above 0o10000."""


class Unsure(OSError):
    """Something that the kernel would do and this does not do: somebody else must."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EOPNOTSUPP, why)


class Inode:
    """The record of an inode, ``size`` bytes; changes are kept by :meth:`Inodes.put`."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.record = ctypes.create_string_buffer(size)

    @property
    def mode(self) -> int:
        """Type and permission bits."""
        return self._u16(_MODE)

    @mode.setter
    def mode(self, value: int) -> None:
        self._put("<H", _MODE, value)

    @property
    def owner(self) -> tuple[int, int]:
        """User and group."""
        uid = self._u16(_UID) | self._u16(_UID_HIGH) << 16
        return uid, self._u16(_GID) | self._u16(_GID_HIGH) << 16

    @owner.setter
    def owner(self, value: tuple[int, int]) -> None:
        for number, low, high in zip(value, (_UID, _GID), (_UID_HIGH, _GID_HIGH), strict=True):
            self._put("<H", low, number & 0xFFFF)
            self._put("<H", high, number >> 16)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._u32(_SIZE) | self._u32(_SIZE_HIGH) << 32

    @property
    def links(self) -> int:
        """Names that it has."""
        return self._u16(_LINKS)

    @links.setter
    def links(self, value: int) -> None:
        self._put("<H", _LINKS, value)

    @property
    def flags(self) -> int:
        """EXT2_*_FL and EXT4_*_FL."""
        return self._u32(_FLAGS)

    @property
    def short_link(self) -> bytes:
        """What a symbolic link says that has no blocks."""
        return self.record.raw[_BLOCK : _BLOCK + min(self.size, _SHORT_LINK)]

    @property
    def kind(self) -> int:
        """The type bits alone, as 0o100000 for a file."""
        return self.mode & 0o170000

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == 0o040000

    def touch(self, now: int, *, modified: bool, made: bool = False) -> None:
        """Set the time of change to ``now``, in seconds; and those of ``modified`` content and of
        the last access of what was just ``made``."""
        for field in (_CTIME, *((_MTIME,) if modified else ()), *((_ATIME,) if made else ())):
            self._put("<I", field, now & 0xFFFFFFFF)
            extra = _EXTRA_TIME[field]
            room = len(self.record) > _EXTRA_SIZE and 128 + self._u16(_EXTRA_SIZE) >= extra + 4
            if room:
                self._put("<I", extra, now >> 32 & 3)

    def die(self, now: int) -> None:
        """Mark it as removed at ``now``."""
        self.links = 0
        self._put("<I", _DTIME, now & 0xFFFFFFFF)

    def _u16(self, offset: int) -> int:
        return int(struct.unpack_from("<H", self.record, offset)[0])

    def _u32(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self.record, offset)[0])

    def _put(self, form: str, offset: int, value: int) -> None:
        struct.pack_into(form, self.record, offset, value)


class Inodes:
    """The inodes of the file system ``fs``, each ``size`` bytes. All methods raise OSError."""

    def __init__(self, fs: Pointer, size: int) -> None:
        self.fs = fs
        self._size = size
        self._checked: set[int] = set()
        self.now = int(time.time())

    def get(self, number: int) -> Inode:
        """The inode of that number."""
        found = Inode(number, self._size)
        call("read_inode_full", self.fs, number, found.record, self._size)
        return found

    def put(self, inode: Inode) -> None:
        """Keep what was changed of ``inode``."""
        call("write_inode_full", self.fs, inode.number, inode.record, self._size)

    def make_file(self, directory: int, *, extents: bool) -> int:
        """A new empty file, root's alone, which has no name yet; its number."""
        number = ctypes.c_uint32()
        mode = 0o100600
        call("new_inode", self.fs, directory, mode, None, ctypes.byref(number))
        made = Inode(number.value, self._size)
        made.mode, made.links = mode, 1
        made.touch(self.now, modified=True, made=True)
        ext_library.allocated(self.fs, number.value, 1, directory=False)
        if extents:
            ext_library.start_extents(self.fs, number.value, made.record)
        call("write_new_inode", self.fs, number.value, made.record)
        return number.value

    def release(self, number: int) -> None:
        """Take away one name of an inode, and the inode itself with its last one; of a directory
        always."""
        inode = self.get(number)
        self.refuse_locked(inode)
        if not inode.is_directory and inode.links > 1:
            inode.links -= 1
            inode.touch(self.now, modified=False)
            self.put(inode)
            return
        call("free_ext_attr", self.fs, number, inode.record)
        if ext_library.has_blocks(self.fs, inode.record):
            call("punch", self.fs, number, inode.record, None, 0, (1 << 64) - 1)
        inode.die(self.now)
        self.put(inode)
        ext_library.allocated(self.fs, number, -1, directory=inode.is_directory)
        self._checked.discard(number)

    def entries(self, directory: int) -> list[tuple[bytes, int]]:
        """(name, inode) of everything in a directory but itself and the one above."""
        found: list[tuple[bytes, int]] = []

        def note(_entry: int, name: bytes, number: int) -> int:
            if name not in (b".", b".."):
                found.append((name, number))
            return 0

        self._each(directory, note)
        return found

    def find(self, directory: int, name: bytes) -> int | None:
        """The inode that has ``name`` in a directory; None without."""
        number = ctypes.c_uint32()
        try:
            where = ctypes.byref(number)
            call("lookup", self.fs, directory, name, len(name), None, where)
        except ExtError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return number.value

    def add(self, directory: int, name: bytes, number: int) -> None:
        """Give an inode a name in a directory that has none like it."""
        kind = _TYPES.get(self.get(number).mode >> 12, 0)
        self.growing(directory, "link", name, number, kind)
        self._changed(directory)

    def growing(self, directory: int, function: str, *arguments: object) -> None:
        """Call a function that adds to ``directory``, which grows where it must."""
        try:
            call(function, self.fs, directory, *arguments)
        except ExtError as error:
            if error.code != ext_library.DIRECTORY_FULL:
                raise
            call("expand_dir", self.fs, directory)
            call(function, self.fs, directory, *arguments)

    def replace(self, directory: int, name: bytes, number: int) -> None:
        """Let ``name``, which is there, be another inode's; its place in an index stays."""
        kind = _TYPES.get(self.get(number).mode >> 12, 0)

        def change(entry: int, found: bytes, _number: int) -> int:
            if found != name:
                return 0
            ctypes.memmove(entry, struct.pack("<I", number), 4)
            ctypes.memmove(entry + 7, bytes([kind]), 1)
            return ext_library.CHANGED | ext_library.ABORT

        self._each(directory, change)
        self._changed(directory)

    def take(self, directory: int, name: bytes, number: int, *, is_directory: bool) -> None:
        """Take a name away; the directory has one link less when it was a directory's."""
        call("unlink", self.fs, directory, name, number, 0)
        self._changed(directory, links=-1 if is_directory else 0)

    def _changed(self, directory: int, links: int = 0) -> None:
        inode = self.get(directory)
        inode.links += links
        inode.touch(self.now, modified=True)
        self.put(inode)

    def _each(self, directory: int, action: Callable[[int, bytes, int], int]) -> None:
        failed: list[Exception] = []

        def entry(at: int, _offset: int, _size: int, _block: int, _given: int) -> int:
            try:
                number, _length, name_length = struct.unpack("<IHB", ctypes.string_at(at, 7))
                return action(at, ctypes.string_at(at + 8, name_length), number)
            except Exception as error:
                failed.append(error)
                return ext_library.ABORT

        call("dir_iterate", self.fs, directory, 0, None, ext_library.Entry(entry), None)
        if failed:
            raise failed[0]

    def refuse_locked(self, inode: Inode) -> None:
        """Raise Unsure for what the kernel would not change."""
        if inode.flags & (IMMUTABLE | APPEND_ONLY):
            raise Unsure("it is marked as not to be changed (chattr(1))")

    def require_plain_directory(self, directory: int) -> Inode:
        """The inode of a directory that new files inherit nothing from that this knows not of."""
        inode = self.get(directory)
        if directory in self._checked:
            return inode
        if not inode.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if inode.flags & ~_PLAIN:
            raise Unsure("files inherit flags of the directory (chattr(1))")
        if inode.flags & INDEX and inode.size > _MOST_INDEXED:
            raise Unsure("its directory is a large one with an index")
        if inode.links >= _MOST_LINKS:
            raise Unsure("its directory has too many directories")
        if self.has_attribute(directory, _ACLS[:1]):
            raise Unsure("files inherit access control lists of the directory (acl(5))")
        self._checked.add(directory)
        return inode

    def require_plain_rights(self, number: int) -> None:
        """Raise Unsure when an owner or a mode is more than that: the kernel changes access lists
        and capabilities along with them."""
        if self.has_attribute(number, _ACLS):
            raise Unsure("it has access control lists or capabilities")

    def has_attribute(self, number: int, names: tuple[bytes, ...]) -> bool:
        """Whether an inode has one of these extended attributes."""
        handle = Pointer()
        call("xattrs_open", self.fs, number, ctypes.byref(handle))
        try:
            call("xattrs_read", handle)
            for name in names:
                value, length = Pointer(), ctypes.c_uint64()
                with_value = (ctypes.byref(value), ctypes.byref(length))
                try:
                    call("xattr_get", handle, name, *with_value)
                except ExtError as error:
                    if error.errno == errno.ENODATA:
                        continue
                    raise
                return True
            return False
        finally:
            call("xattrs_close", ctypes.byref(handle))
