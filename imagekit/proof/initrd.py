"""Writes a cpio archive of the kind the kernel unpacks as its first root file system.

Format "newc": Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A directory, a file or a device of the archive; ``mode`` holds type and permissions."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Item:
    """A directory, 0755."""
    return Item(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, permissions: int = 0o644) -> Item:
    """A regular file."""
    return Item(name, stat.S_IFREG | permissions, data)


def newc(items: Iterable[Item]) -> bytes:
    """The whole archive, uncompressed."""
    return b"".join(_pieces(items))


def _pieces(items: Iterable[Item]) -> Iterator[bytes]:
    number = 0
    for number, item in enumerate(items, 1):
        yield _entry(number, item)
    yield _entry(number + 1, Item("TRAILER!!!", 0))


def _entry(number: int, item: Item) -> bytes:
    name = item.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(item.mode) else 1
    fields = [number, item.mode, 0, 0, links, 0, len(item.data), 0, 0, *item.device, len(name), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(item.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
