"""What any bootloader's configuration comes down to: entries, and which one is the default."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagekit.errors import ImageError

MAX_CONFIG = 1 << 20
"""Bytes of a configuration that are read (FS_READ_MAX of Xen ``tools/pygrub/src/pygrub``)."""

MAX_LINE = 64 << 10
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
    if len(text) > 16 * MAX_CONFIG:
        raise ImageError("the bootloader configuration is larger than 16 MiB", where=where)
    lines = text.split("\n")
    longest = max(lines, key=len)
    if len(longest) > MAX_LINE:
        raise ImageError(
            "a line of the bootloader configuration is longer than 64 KiB",
            where=f"{where}:{lines.index(longest) + 1}",
            hint="no bootloader writes such lines; the file is damaged or hostile",
        )
    return lines
