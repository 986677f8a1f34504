"""What is told of an ISO 9660 image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "link", "directory"]

MAX_EXTRACT = 1 << 30
"""Largest file that is copied out, in bytes."""


@dataclass(frozen=True)
class IsoFile:
    """A file: size in bytes, first sector of 2048 bytes, kind."""

    path: str
    size: int
    sector: int
    kind: Kind


@dataclass(frozen=True)
class BootEntry:
    """An El Torito entry: platform 0 is BIOS, 0xEF UEFI; ``sector`` where its image starts."""

    platform: int
    media: int
    sector: int
    count: int


@dataclass(frozen=True)
class Content:
    """The volume id, whether it has Joliet names, files by Rock Ridge name, boot catalogue."""

    volume_id: str
    joliet: bool
    files: tuple[IsoFile, ...]
    boot: tuple[BootEntry, ...]
