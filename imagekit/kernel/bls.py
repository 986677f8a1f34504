"""Boot Loader Specification entries, type 1 (``/boot/loader/entries/*.conf``).

Source: UAPI group, "The Boot Loader Specification", Type #1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from imagekit.errors import ImageError
from imagekit.kernel.bootmenu import (
    MAX_ENTRIES,
    MAX_TEXT,
    BootEntry,
    BootMenu,
    Expansion,
    check_size,
)

_COUNTER = re.compile(r"\+\d{1,9}(?:-\d{1,9})?$", re.A)
_DIGITS = re.compile(r"(\d{1,50})", re.A)
# GRUB's blscfg replaces variables such as $kernelopts; unknown ones become empty.
_VARIABLE = re.compile(r"\$\{?(\w{1,64})\}?")


def parse_bls(files: Mapping[str, str], *, grubenv: Mapping[str, str] | None = None) -> BootMenu:
    """The menu of all ``files`` (name ending in .conf to text), newest version first.

    ``grubenv`` gives saved_entry (a file name without .conf, or an index) and variables such as
    kernelopts. Raises ImageError when there are absurdly many or large entries.
    """
    if len(files) > MAX_ENTRIES:
        raise ImageError(f"more than {MAX_ENTRIES} boot loader entries", where="loader/entries")
    if sum(map(len, files.values())) > MAX_TEXT:
        raise ImageError("the boot loader entries are larger than 4 MiB", where="loader/entries")
    variables = dict(grubenv or {})
    expand = Expansion(_VARIABLE, variables, "loader/entries")
    names = sorted((name for name in files if name.endswith(".conf")), key=_order, reverse=True)
    entries = tuple(_entry(name, files[name], expand) for name in names)
    bootable = tuple(entry for entry in entries if entry.kernel)
    if not bootable:
        return BootMenu((), None, "loader/entries")
    return BootMenu(
        bootable, _default(bootable, variables.get("saved_entry", "")), "loader/entries"
    )


def _entry(name: str, text: str, expand: Expansion) -> BootEntry:
    fields: dict[str, list[str]] = {}
    for line in check_size(text, name):
        parts = line.split(None, 1)
        if len(parts) == 2 and not parts[0].startswith("#"):
            fields.setdefault(parts[0], []).append(parts[1].strip())
    identity = _COUNTER.sub("", name.rsplit("/", 1)[-1].removesuffix(".conf"))
    words = [word for value in fields.get("initrd", []) for word in value.split()]
    initrds = [expand(word) for word in words]
    return BootEntry(
        title=fields.get("title", [identity])[0],
        kernel=fields.get("linux", [""])[0] or None,
        initrds=tuple(filter(None, initrds)),
        args=" ".join(expand(value) for value in fields.get("options", [])).strip(),
        id=identity,
    )


def _default(entries: tuple[BootEntry, ...], saved: str) -> int:
    for index, entry in enumerate(entries):
        if saved and saved == entry.id:
            return index
    number = int(saved) if saved.isascii() and saved.isdigit() and len(saved) < 6 else 0
    return number if number < len(entries) else 0


def _order(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name compare as numbers, so that 6.10 is newer than 6.9."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in _DIGITS.split(name)]
