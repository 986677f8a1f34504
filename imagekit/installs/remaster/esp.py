"""The FAT image that UEFI boots from: GRUB's menu in it is read and replaced with mtools."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from imagekit.errors import ImageError, ToolError
from imagekit.host.run import run

# mtools refuses images whose geometry disagrees with their size, as many EFI images' do.
_ENV = {"MTOOLS_SKIP_CHECK": "1"}
_MENU = re.compile(r"::/((?:EFI|boot)/(?:[^/]+/)*(?:grub\.cfg|BOOT\.conf))", re.IGNORECASE)
SECONDS = 60
MAX_MENU = 1 << 20


def appended(iso: Path, scratch: Path) -> Path | None:
    """The EFI image that lies behind the ISO's files in a partition of its own, or None."""
    scratch.mkdir()
    run(
        [
            "xorriso",
            "-no_rc",
            "-osirrox",
            "on",
            "-indev",
            f"stdio:{iso.absolute()}",
            "-extract_boot_images",
            scratch,
        ],
        check=False,
        timeout=300,
    )
    found = sorted(p for p in scratch.iterdir() if "efi" in p.name or "gpt_part" in p.name)
    return found[0] if found else None


def menus_in(image: Path | None, scratch: Path) -> dict[str, str]:
    """GRUB menus in the FAT image by path; nothing for what is no FAT image."""
    if image is None:
        return {}
    try:
        listing = run(["mdir", "-/", "-b", "-i", image, "::"], env=_ENV, timeout=SECONDS).text
    except ToolError:
        return {}
    scratch.mkdir()
    found = {}
    for number, line in enumerate(listing.splitlines()[:10_000]):
        match = _MENU.fullmatch(line.strip())
        if match is None:
            continue
        target = scratch / str(number)
        run(["mcopy", "-n", "-i", image, f"::/{match[1]}", target], env=_ENV, timeout=SECONDS)
        if target.is_file() and target.stat().st_size <= MAX_MENU:
            found[f"/{match[1]}"] = target.read_text("utf-8", "replace")
    return found


def replace_menu(image: Path, name: str, text: str, scratch: Path) -> None:
    """Put ``text`` in the place of the menu ``name`` in the FAT image."""
    scratch.write_text(text)
    try:
        run(["mcopy", "-o", "-i", image, scratch, f"::{name}"], env=_ENV, timeout=SECONDS)
    except ToolError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise ImageError(f"the menu in the EFI image cannot be replaced: {error.output}") from None
