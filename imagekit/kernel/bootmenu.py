"""What any bootloader's configuration comes down to: entries, and which one is the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imagekit.errors import ImageError

MAX_CONFIG = 1 << 20
"""Bytes of a configuration that are read (FS_READ_MAX of Xen ``tools/pygrub/src/pygrub``)."""

MAX_TEXT = 4 * MAX_CONFIG
"""Characters of one configuration, or of all files of a menu."""

MAX_LINE = 64 << 10
MAX_EXPANDED = 64 << 10
MAX_EXPANDED_TOTAL = 4 * MAX_CONFIG
MAX_ENTRIES = 10_000


@dataclass(frozen=True)
class BootEntry:
    """One choice in a boot menu.

    Paths are as written, relative to the partition that GRUB calls root. ``root`` is that
    partition, as written, where the entry names one. ``id`` is GRUB 2's menu entry id or the name
    of a BLS file.
    """

    title: str
    kernel: str | None
    initrds: tuple[str, ...] = ()
    args: str = ""
    root: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class BootMenu:
    """All entries of one configuration, submenus flattened.

    ``default`` is an index into ``entries``, None when there are none. ``source`` names the kind of
    configuration or its file.
    """

    entries: tuple[BootEntry, ...]
    default: int | None
    source: str

    @property
    def chosen(self) -> BootEntry | None:
        """The default entry."""
        return None if self.default is None else self.entries[self.default]


@dataclass(frozen=True)
class Finding:
    """Something in a configuration that pygrub reads differently than GRUB does, or not at all.

    ``severity`` is ``error`` (pygrub boots nothing, or something else) or ``warning``. ``line`` is
    1-based, 0 for the whole file.
    """

    severity: str
    code: str
    line: int
    what: str
    hint: str = field(default="")


def check_size(text: str, where: str) -> list[str]:
    """The lines of ``text``; raises ImageError when it or a line is absurdly large."""
    if len(text) > MAX_TEXT:
        raise ImageError("the bootloader configuration is larger than 4 MiB", where=where)
    lines = text.split("\n")
    longest = max(lines, key=len)
    if len(longest) > MAX_LINE:
        raise ImageError(
            "a line of the bootloader configuration is longer than 64 KiB",
            where=f"{where}:{lines.index(longest) + 1}",
            hint="no bootloader writes such lines; the file is damaged or hostile",
        )
    return lines


class Expansion:
    """Replaces ``variables`` in the texts of one configuration, within bounds.

    A variable of a few letters may stand for kilobytes, in every line. Each text may become
    MAX_EXPANDED characters long, and all of them MAX_EXPANDED_TOTAL.
    """

    def __init__(self, pattern: re.Pattern[str], variables: Mapping[str, str], where: str) -> None:
        self._pattern = pattern
        self._variables = variables
        self._where = where
        self._total = 0

    def __call__(self, text: str) -> str:
        """``text`` with each match replaced by its variable (group 1 or 2); unknown are empty.

        Raises ImageError when a limit is passed, before more is made.
        """
        pieces: list[str] = []
        at = size = 0
        for match in self._pattern.finditer(text):
            name = next((group for group in match.groups() if group), "")
            piece = text[at : match.start()] + self._variables.get(name, "")
            pieces.append(piece)
            at, size = match.end(), size + len(piece)
            if size > MAX_EXPANDED:
                break
        pieces.append(text[at:])
        size += len(text) - at
        self._total += size
        if size > MAX_EXPANDED:
            raise ImageError("variables expand to more than 64 KiB", where=self._where)
        if self._total > MAX_EXPANDED_TOTAL:
            raise ImageError("variables expand to more than 4 MiB in all", where=self._where)
        return "".join(pieces)
