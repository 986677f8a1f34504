"""What pygrub would boot from a file system: the search, the choice, and why it would fail.

Behaviour follows Xen ``tools/pygrub/src/pygrub`` (4.17): the first configuration that exists is
the only one read; an entry without a kernel or a file that is not there ends in failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from imagekit.errors import ImageError
from imagekit.kernel.bootmenu import MAX_CONFIG, BootMenu
from imagekit.kernel.pygrub_parse import parse_extlinux, parse_grub2, parse_grub_legacy

SEARCH: tuple[tuple[str, Callable[..., BootMenu]], ...] = (
    *(
        (path, parse_grub2)
        for path in (
            "/boot/grub/grub.cfg",
            "/grub/grub.cfg",
            "/boot/grub2/grub.cfg",
            "/grub2/grub.cfg",
        )
    ),
    *(
        (path, parse_extlinux)
        for path in (
            "/boot/isolinux/isolinux.cfg",
            "/boot/extlinux/extlinux.conf",
            "/boot/extlinux.conf",
            "/extlinux/extlinux.conf",
            "/extlinux.conf",
        )
    ),
    *(
        (path, parse_grub_legacy)
        for path in (
            "/boot/grub/menu.lst",
            "/boot/grub/grub.conf",
            "/grub/menu.lst",
            "/grub/grub.conf",
        )
    ),
)
"""Configuration files in pygrub's order, each with its reader."""

CONFIG_PATHS = tuple(path for path, _ in SEARCH)


@dataclass(frozen=True)
class PygrubChoice:
    """What pygrub boots: paths in the guest's file system, ``args`` the command line.

    ``index`` is the entry's place in ``menu``; ``config`` the file it was read from.
    """

    config: str
    index: int
    title: str
    kernel: str
    initrd: str | None
    args: str
    menu: BootMenu


@dataclass(frozen=True)
class PygrubRefusal:
    """Why pygrub boots nothing from this file system; ``config`` is the file it read, if any."""

    reason: str
    config: str | None = None


def pygrub_view(
    files: Mapping[str, str], *, exists: Callable[[str], bool] | None = None
) -> PygrubChoice | PygrubRefusal:
    """What pygrub boots from one file system.

    ``files`` maps absolute paths, symlinks resolved, to the text of the configuration files found
    (those of CONFIG_PATHS matter); undecodable bytes are surrogate escapes. ``exists`` says whether
    a path is a file in the guest; without it kernel and initrd are taken to be there unless their
    name holds a blank or a variable.
    """
    found = next(((path, parser) for path, parser in SEARCH if path in files), None)
    if found is None:
        return PygrubRefusal("none of the bootloader configurations that pygrub looks for is there")
    path, parser = found
    try:
        raw = files[path].encode("utf-8", "surrogateescape")[:MAX_CONFIG]
        menu = parser(raw.decode("utf-8"), source=path)
    except UnicodeError:
        return PygrubRefusal(f"{path} is not UTF-8, or its first 1 MiB ends inside a letter", path)
    except ImageError as error:
        return PygrubRefusal(f"{path}: {error.what}", path)
    return _choose(path, menu, exists)


def _choose(
    path: str, menu: BootMenu, exists: Callable[[str], bool] | None
) -> PygrubChoice | PygrubRefusal:
    entry = menu.chosen
    if entry is None or menu.default is None:
        return PygrubRefusal(f"{path} has no entry that pygrub recognises", path)
    if not entry.kernel:
        return PygrubRefusal(f"{path}: the entry {entry.title!r} names no kernel", path)
    initrd = entry.initrds[0] if entry.initrds else None
    for value in (entry.kernel, initrd, entry.args):
        if value and "\0" in value:
            return PygrubRefusal(f"{path}: a NUL byte in the entry {entry.title!r}", path)
    there = exists or _looks_like_a_path
    for kind, file in (("kernel", entry.kernel), ("initrd", initrd)):
        if file and not there(file):
            return PygrubRefusal(
                f"{path}: the {kind} of the entry {entry.title!r} is not there: {file}", path
            )
    return PygrubChoice(path, menu.default, entry.title, entry.kernel, initrd, entry.args, menu)


def _looks_like_a_path(text: str) -> bool:
    """False for what pygrub takes for a path though GRUB does not: two of them, or a variable."""
    return "$" not in text and not any(char.isspace() for char in text)
