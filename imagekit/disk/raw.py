"""Raw images: a disk's bytes and nothing else, unwritten parts left as holes."""

from __future__ import annotations

import os
from pathlib import Path

from imagekit.disk.extents import size_of, writable
from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors, replacing

SECTOR = 512
"""Bytes; the smallest unit every disk front end counts in."""


def create(path: Path, size_bytes: int, *, overwrite: bool = False) -> None:
    """Create a raw image of ``size_bytes`` that is one hole.

    Raises SpecError unless the size is a positive multiple of 512, ExistsError, HostError.
    """
    _check_size(path, size_bytes)
    with replacing(path, overwrite=overwrite) as part, writable(part) as fd:
        os.ftruncate(fd, size_bytes)


def resize(path: Path, size_bytes: int, *, shrink: bool = False) -> None:
    """Grow the raw image to ``size_bytes``; the new end reads as zeros and takes no space.

    Raises SpecError when that would cut off the end and ``shrink`` is false, HostError.
    """
    _check_size(path, size_bytes)
    with os_errors(path), writable(path) as fd:
        present = size_of(fd)
        if size_bytes < present and not shrink:
            raise SpecError(
                f"{size_bytes} bytes are less than the {present} it has now",
                where=str(path),
                hint="shrink the file systems and the partition table first",
            )
        os.ftruncate(fd, size_bytes)


def _check_size(path: Path, size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % SECTOR:
        raise SpecError(
            f"a disk of {size_bytes} bytes is not possible",
            where=str(path),
            hint="give a positive multiple of 512 bytes",
        )
