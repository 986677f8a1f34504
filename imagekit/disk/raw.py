"""Raw images: a disk's bytes and nothing else, unwritten parts left as holes."""

from __future__ import annotations

import os
from pathlib import Path

from imagekit.disk.extents import writable
from imagekit.errors import SpecError
from imagekit.host.outfile import replacing

SECTOR = 512
"""Bytes; the smallest unit every disk front end counts in."""


def create(path: Path, size_bytes: int, *, overwrite: bool = False) -> None:
    """Create a raw image of ``size_bytes`` that is one hole.

    Raises SpecError unless the size is a positive multiple of 512, ExistsError, HostError.
    """
    _check_size(path, size_bytes)
    with replacing(path, overwrite=overwrite) as part, writable(part) as fd:
        os.ftruncate(fd, size_bytes)


def _check_size(path: Path, size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % SECTOR:
        raise SpecError(
            f"a disk of {size_bytes} bytes is not possible",
            where=str(path),
            hint="give a positive multiple of 512 bytes",
        )
