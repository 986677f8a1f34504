"""The calls of a tree's server on an ext2, ext3 or ext4 that nobody has mounted.

They do what :mod:`imagekit.guest.backends.tree_child` does by system calls, and what the kernel
does along with them: set-group-ID directories, link counts, times. What they do not do exactly they
refuse with EOPNOTSUPP.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator

from imagekit.guest.backends.ext_blocks import Blocks
from imagekit.guest.backends.ext_inodes import NAME_BYTES, ROOT, Inode, Inodes, Unsure
from imagekit.guest.backends.ext_library import FILE_WRITE, RW, WIDE, Pointer, call, has_blocks

_DEEPEST = 400
"""Directories in each other that are removed; each is a call of a function."""


class Superblock:
    """What is asked of a superblock, ``data`` from byte 1024 on (struct ext2_super_block)."""

    BYTES = 1024
    _MAGIC = 0xEF53
    # Features by which libext2fs writes what the kernel writes: among the compatible ones journal,
    # attributes, reserved descriptors, indexes, sparse_super2, orphan_file; among the others types
    # of entries, meta_bg, extents, 64 bits, flex_bg, csum_seed; sparse_super, large and huge files,
    # checksums, large link counts, large inodes.
    _KNOWN = (0x1 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x1000, 0x2 | 0x10 | 0x40 | 0x80 | 0x2200)
    _KNOWN_TO_WRITE = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400
    _TYPES, _RECOVER, _EXTENTS = 0x2, 0x4, 0x40

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.is_ext = len(data) >= self.BYTES and self._u16(56) == self._MAGIC
        if self.is_ext:
            self._compat, self._incompat, self._ro_compat = struct.unpack_from("<III", data, 92)

    @property
    def inode_size(self) -> int:
        """Bytes of each inode."""
        return self._u16(88) if self._u32(76) >= 1 else 128

    @property
    def extents(self) -> bool:
        """Whether files have extents."""
        return bool(self._incompat & self._EXTENTS)

    @property
    def size(self) -> int:
        """Bytes of the whole file system."""
        high = self._u32(336) if self._incompat & 0x80 else 0
        return (self._u32(4) | high << 32) * (1024 << min(self._u32(24), 16))

    def require_plain(self, partition_bytes: int) -> None:
        """Raise Unsure unless it was unmounted cleanly and has nothing but what is known here."""
        unknown = (
            self._compat & ~self._KNOWN[0],
            self._incompat & ~(self._KNOWN[1] | self._RECOVER),
            self._ro_compat & ~(self._KNOWN_TO_WRITE | 0x10000),
        )
        if self._incompat & self._RECOVER or self._ro_compat & 0x10000 or self._u32(232):
            raise Unsure("its journal or its list of orphans is to be replayed")
        if self._u16(58) != 1:  # s_state: EXT2_VALID_FS, and no EXT2_ERROR_FS
            raise Unsure("it was not unmounted cleanly")
        if any(unknown) or not self._incompat & self._TYPES:
            raise Unsure("it has features that are left to the kernel")
        if not 128 <= self.inode_size <= 4096 or self.size > partition_bytes:
            raise Unsure("its superblock is damaged")

    def _u16(self, offset: int) -> int:
        return int(struct.unpack_from("<H", self._data, offset)[0])

    def _u32(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self._data, offset)[0])


class ExtTree:
    """The calls, on the file system in ``blocks``; all raise OSError."""

    def __init__(self, blocks: Blocks, partition_bytes: int) -> None:
        superblock = Superblock(blocks.content(1024, Superblock.BYTES))
        if not superblock.is_ext:
            raise Unsure("it is no ext2, ext3 or ext4")
        superblock.require_plain(partition_bytes)
        self._blocks = blocks  # libext2fs calls it as long as it is open
        self._extents = superblock.extents
        self._fs = Pointer()
        opened = ctypes.byref(self._fs)
        call("open2", b"disk", None, RW | WIDE, 0, 0, blocks.manager, opened)
        call("read_bitmaps", self._fs)
        self._inodes = Inodes(self._fs, superblock.inode_size)
        self._unnamed: dict[str, int] = {}

    def close(self) -> None:
        """Write what is not written yet."""
        if self._unnamed:
            raise OSError(errno.EBUSY, "files without a name are left")
        call("close_free", ctypes.byref(self._fs))

    def lstat(self, path: str) -> list[int] | None:
        """Mode, owner, group and size of the name itself; None when there is none."""
        try:
            inode = self._inodes.get(self._number(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        return [inode.mode, *inode.owner, inode.size]

    def readlink(self, path: str) -> str:
        """What a symbolic link says."""
        inode = self._inodes.get(self._number(path))
        if inode.kind != stat.S_IFLNK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not has_blocks(self._fs, inode.record):
            return os.fsdecode(inode.short_link)
        return os.fsdecode(self._content(inode, min(inode.size, 4096), 0))

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        inode = self._inodes.get(self._number(path))
        if not inode.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return [os.fsdecode(name) for name, _number in self._inodes.entries(inode.number)]

    def read(self, path: str, count: int, offset: int) -> bytes:
        """At most ``count`` bytes of a regular file."""
        inode = self._inodes.get(self._number(path))
        if inode.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._content(inode, min(count, max(inode.size - offset, 0)), offset)

    def create(self, path: str, data: bytes) -> None:
        """Make a file that is not there yet, readable by root alone. It gets its name when it is
        put in the place of another, so that its first one leaves nothing in the directory."""
        directory, name = self._parent(path)
        if path in self._unnamed or self._inodes.find(directory.number, name) is not None:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        number = self._inodes.make_file(directory.number, extents=self._extents)
        self._unnamed[path] = number
        self.append(path, data)

    def append(self, path: str, data: bytes) -> None:
        """Add to a file that has no name yet."""
        number = self._unnamed[path]
        end = self._inodes.get(number).size
        handle = Pointer()
        call("file_open2", self._fs, number, None, FILE_WRITE, ctypes.byref(handle))
        try:
            call("file_llseek", handle, end, os.SEEK_SET, None)
            done, written = 0, ctypes.c_uint()
            while done < len(data):
                piece = data[done:]
                call("file_write", handle, piece, len(piece), ctypes.byref(written))
                done += written.value
        finally:
            call("file_close", handle)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner of the name itself."""
        inode = self._changeable(path)
        inode.owner = (uid, gid)
        if inode.kind == stat.S_IFREG:
            # As the kernel does, whoever changes it (chown(2)).
            runs = inode.mode & stat.S_IXGRP
            inode.mode &= ~(stat.S_ISUID | (stat.S_ISGID if runs else 0))
        inode.touch(self._inodes.now, modified=False)
        self._inodes.put(inode)

    def chmod(self, path: str, mode: int) -> None:
        """Change the permission bits of a file or directory."""
        inode = self._changeable(path)
        inode.mode = inode.kind | stat.S_IMODE(mode)
        inode.touch(self._inodes.now, modified=False)
        self._inodes.put(inode)

    def rename(self, path: str, target: str) -> None:
        """Put a file that has no name yet in the place of another name."""
        directory, name = self._parent(target)
        number = self._unnamed[path]
        there = self._inodes.find(directory.number, name)
        if there is None:
            self._inodes.add(directory.number, name, number)
        else:
            if self._inodes.get(there).is_directory:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._inodes.replace(directory.number, name, number)
            self._inodes.release(there)
        del self._unnamed[path]

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link that is not there yet."""
        directory, name = self._parent(path)
        said = os.fsencode(target)
        if not said or b"\0" in said:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._inodes.growing(directory.number, "symlink", 0, name, said)
        self._made(directory, name)

    def mkdir(self, path: str) -> None:
        """Make a directory, and those above it, where missing."""
        number = ROOT
        for name in _names(path):
            found = self._inodes.find(number, name)
            if found is None:
                parent = self._inodes.require_plain_directory(number)
                _check_name(name)
                self._inodes.growing(number, "mkdir", 0, name)
                found = self._made(parent, name)
            elif not self._inodes.get(found).is_directory:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            number = found

    def remove(self, path: str) -> None:
        """Remove a file, link or tree."""
        number = self._number(path)
        directory, name = self._parent(path, adding=False)
        inode = self._inodes.get(number)
        below = list(self._below(number, 0)) if inode.is_directory else []
        self._inodes.take(directory.number, name, number, is_directory=inode.is_directory)
        for each in [*below, number]:
            self._inodes.release(each)

    def _below(self, directory: int, depth: int) -> Iterator[int]:
        """The inode of each name below a directory, those of a directory before itself."""
        if depth > _DEEPEST:
            raise Unsure("it has too many directories in each other")
        self._inodes.refuse_locked(self._inodes.get(directory))
        for _name, number in self._inodes.entries(directory):
            if self._inodes.get(number).is_directory:
                yield from self._below(number, depth + 1)
            yield number

    def _made(self, directory: Inode, name: bytes) -> int:
        """Finish what libext2fs made, as the kernel would have made it; its number."""
        number = self._inodes.find(directory.number, name)
        if number is None:
            raise OSError(errno.EUCLEAN, "what was made is not there")
        inode = self._inodes.get(number)
        inode.owner = (0, 0)
        if directory.mode & stat.S_ISGID:
            inode.owner = (0, directory.owner[1])
            if inode.is_directory:
                inode.mode |= stat.S_ISGID
        inode.touch(self._inodes.now, modified=True, made=True)
        self._inodes.put(inode)
        above = self._inodes.get(directory.number)
        above.touch(self._inodes.now, modified=True)
        self._inodes.put(above)
        return number

    def _changeable(self, path: str) -> Inode:
        number = self._number(path)
        inode = self._inodes.get(number)
        if path not in self._unnamed:
            self._inodes.refuse_locked(inode)
            self._inodes.require_plain_rights(number)
        return inode

    def _number(self, path: str) -> int:
        """The inode of a name without links; raises OSError when there is none."""
        if path in self._unnamed:
            return self._unnamed[path]
        number = ROOT
        for name in _names(path):
            if not self._inodes.get(number).is_directory:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            found = self._inodes.find(number, name)
            if found is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            number = found
        return number

    def _parent(self, path: str, *, adding: bool = True) -> tuple[Inode, bytes]:
        """The directory of a name, and its last part."""
        *above, name = _names(path)
        _check_name(name)
        number = self._number("/" + "/".join(map(os.fsdecode, above)))
        inode = self._inodes.get(number)
        if adding:
            inode = self._inodes.require_plain_directory(number)
        self._inodes.refuse_locked(inode)
        return inode, name

    def _content(self, inode: Inode, count: int, offset: int) -> bytes:
        handle = Pointer()
        call("file_open2", self._fs, inode.number, None, 0, ctypes.byref(handle))
        try:
            call("file_llseek", handle, offset, os.SEEK_SET, None)
            into, got = ctypes.create_string_buffer(count), ctypes.c_uint()
            call("file_read", handle, into, count, ctypes.byref(got))
            return into.raw[: got.value]
        finally:
            call("file_close", handle)


def _names(path: str) -> list[bytes]:
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if not path.startswith("/") or b".." in names or b"\0" in b"".join(names):
        raise OSError(errno.EINVAL, "is not an absolute name without '..'")
    return names


def _check_name(name: bytes) -> None:
    if len(name) > NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
