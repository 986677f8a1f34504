"""A cpio archive appended to an initrd, which the kernel unpacks after what was there.

Format "newc": Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_REGULAR = 0o100600
_FIELDS = 13


def archive(files: Mapping[str, bytes]) -> bytes:
    """An uncompressed newc archive of regular files, mode 0600, owned by root."""
    entries = [*((name, _REGULAR, data) for name, data in files.items()), ("TRAILER!!!", 0, b"")]
    return b"".join(_entry(i + 1, *entry) for i, entry in enumerate(entries))


def append(initrd: Path, target: Path, files: Mapping[str, bytes]) -> None:
    """Copy ``initrd`` to ``target`` with ``files`` behind it, at a multiple of four bytes."""
    shutil.copyfile(initrd, target)
    target.chmod(0o600)
    with target.open("ab") as stream:
        stream.write(bytes(-os.fstat(stream.fileno()).st_size % 4))
        stream.write(archive(files))


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    numbers = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % n for n in numbers)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
