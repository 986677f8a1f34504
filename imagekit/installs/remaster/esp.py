"""The FAT image that UEFI boots from: GRUB's menu in it is read and replaced with mtools.

xorriso and mtools run where they can reach nothing but the files they are given.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.errors import ImageError, ToolError
from imagekit.host.program import Bounds, confined, given
from imagekit.host.run import Completed, run

# mtools refuses images whose geometry disagrees with their size, as many EFI images' do.
_ENV = {"MTOOLS_SKIP_CHECK": "1"}
_MENU = re.compile(r"::/((?:EFI|boot)/(?:[^/]+/)*(?:grub\.cfg|BOOT\.conf))", re.IGNORECASE)
SECONDS = 60
MAX_MENU = 1 << 20
_MOST = 4 << 20
"""Bytes that are taken of what a program says: 10,000 names, or a menu."""
_BOUNDS = Bounds(memory=1 << 30, cpu_seconds=60, file_bytes=1 << 30)


def appended(iso: Path, scratch: Path) -> Path | None:
    """The EFI image that lies behind the ISO's files in a partition of its own, or None."""
    scratch.mkdir()
    folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened(iso) as fd:
            argv = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", f"stdio:{given(fd)}"]
            argv += ["-extract_boot_images", given(folder)]
            command = confined(argv, readable=[fd], writable=[folder], bounds=_BOUNDS)
            run(command, check=False, timeout=300, pass_fds=[fd, folder], output_limit=_MOST)
    finally:
        os.close(folder)
    # What it wrote is a stranger's too: a link would lead to a file of the host.
    made = (p for p in scratch.iterdir() if p.is_file() and not p.is_symlink())
    found = sorted(p for p in made if "efi" in p.name or "gpt_part" in p.name)
    return found[0] if found else None


def menus_in(image: Path | None) -> dict[str, str]:
    """GRUB menus in the FAT image by path; nothing for what is no FAT image."""
    if image is None:
        return {}
    found = {}
    with opened(image) as fd:
        try:
            listing = _mtools(["mdir", "-/", "-b", "-i", given(fd), "::"], fd).text
        except ToolError:
            return {}
        for line in listing.splitlines()[:10_000]:
            match = _MENU.fullmatch(line.strip())
            if match is None:
                continue
            argv = ["mcopy", "-n", "-i", given(fd), f"::/{match[1]}", "-"]
            with contextlib.suppress(ToolError):  # a damaged one, or one that does not end
                content = _mtools(argv, fd).stdout
                if len(content) <= MAX_MENU:
                    found[f"/{match[1]}"] = content.decode("utf-8", "replace")
    return found


def _mtools(argv: list[str], image: int) -> Completed:
    """A program of mtools that reads; raises ToolError."""
    command = confined(argv, readable=[image], bounds=_BOUNDS)
    return run(command, env=_ENV, timeout=SECONDS, pass_fds=[image], output_limit=_MOST)


def replace_menu(image: Path, name: str, text: str, scratch: Path) -> None:
    """Put ``text`` in the place of the menu ``name`` in the FAT image."""
    scratch.write_text(text)
    with scratch.open("rb") as menu, image.open("r+b") as fat:
        files = (menu.fileno(), fat.fileno())
        argv = ["mcopy", "-o", "-i", given(files[1]), given(files[0]), f"::{name}"]
        command = confined(argv, readable=files[:1], writable=files[1:], bounds=_BOUNDS)
        try:
            run(command, env=_ENV, timeout=SECONDS, pass_fds=files, output_limit=_MOST)
        except ToolError as error:
            raise ImageError(
                f"the menu in the EFI image cannot be replaced: {error.output}"
            ) from None
