"""GRUB put onto an image without loop devices, and the grub.cfg that GRUB, pygrub and pvgrub read.

Sources: grub-core/boot/i386/pc/boot.S and diskboot.S for the patched fields
(GRUB_BOOT_MACHINE_KERNEL_SECTOR 0x5c, GRUB_BOOT_MACHINE_DRIVE_CHECK 0x66, the block list that ends
at 0x200 of core.img), tools/pygrub/src/GrubConf.py for what pygrub understands.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from imagekit.disk.filesystem import Region, make
from imagekit.disk.layout import MIB, SECTOR, Layout
from imagekit.errors import HostError, SpecError
from imagekit.host.run import run

SHIPS = ("templates",)
GRUB_LIB = Path("/usr/lib/grub")
KERNEL_SECTOR = 0x5C
DRIVE_CHECK = 0x66
BLOCKLIST = 0x1F4
LOAD_SEGMENT = 0x820
BOOT_CODE_BYTES = 440
CONSOLES = "console=tty0 console=ttyS0,115200n8 console=hvc0"
"""Kernel consoles that are right in every mode: screen, HVM's serial port, Xen's console. The last
one that exists becomes /dev/console."""

MODULES = [
    *("part_gpt", "part_msdos", "ext2", "xfs", "btrfs", "fat", "normal", "linux", "search"),
    *("search_fs_uuid", "search_label", "configfile", "echo", "test", "ls", "cat", "sleep"),
    *("halt", "reboot", "gzio", "all_video", "serial", "terminal", "minicmd"),
]


@dataclass(frozen=True)
class Entry:
    """One entry of the boot menu; paths are relative to the file system that holds /boot."""

    title: str
    kernel: str
    initrd: str | None


def grub_cfg(
    entries: Sequence[Entry], *, boot_uuid: str, cmdline: str, timeout: int, template: Path | None
) -> str:
    """Render grub.cfg; ``template`` replaces the shipped one. Raises SpecError for unsafe values.

    ``cmdline`` is checked word by word: GRUB would expand or split what pygrub passes on as it is.
    """
    words = cmdline.split()
    for word in words:
        grub_word(word)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - not HTML; every value goes through its own filter
    )
    environment.filters |= {"grub_word": grub_word, "grub_single_quoted": grub_single_quoted}
    source = template or Path(__file__).parent / "templates/grub.cfg.j2"
    try:
        return environment.from_string(source.read_text()).render(
            entries=entries, boot_uuid=boot_uuid, cmdline=" ".join(words), timeout=int(timeout)
        )
    except jinja2.TemplateError as error:
        raise SpecError(f"the grub.cfg template fails: {error}", where=str(source)) from None


def grub_word(value: str) -> str:
    """``value`` if GRUB reads it as one unquoted literal word, else SpecError."""
    if not re.fullmatch(r"[A-Za-z0-9_.,:/@%+=\[\]^~!-]+", value):
        raise SpecError(f"{value!r} cannot stand in grub.cfg", hint="see boot.cmdline")
    return value


def grub_single_quoted(value: str) -> str:
    """``value`` fit to stand between single quotes, which GRUB cannot escape inside."""
    if "'" in value or not value.isprintable():
        raise SpecError(f"{value!r} cannot be a menu title")
    return value


def early_cfg(boot_uuid: str, prefix: str) -> str:
    """The configuration built into GRUB's core: find /boot by UUID, use screen and serial port."""
    return (
        "serial --unit=0 --speed=115200\n"
        "terminal_input console serial\n"
        "terminal_output console serial\n"
        f"search --no-floppy --fs-uuid --set=root {boot_uuid}\n"
        f"set prefix=($root){prefix}\n"
    )


def grub_prefix(layout: Layout) -> str:
    """Directory of grub.cfg as seen from the file system that holds /boot."""
    return "/grub" if layout.find("boot") else "/boot/grub"


def install_bios(layout: Layout, image: Path, scratch: Path, log: Path | None = None) -> None:
    """Write GRUB for BIOS into ``image``: boot.img before the table, core.img where it has room."""
    directory = _platform("i386-pc", "grub-pc-bin")
    core = bytearray(_mkimage("i386-pc", layout, scratch, [*MODULES, "biosdisk"], log))
    boot = bytearray((directory / "boot.img").read_bytes())
    part = layout.find("biosboot")
    first = part.start // SECTOR if part else 1
    room = part.size if part else MIB - SECTOR
    if len(core) > room or len(boot) != SECTOR:
        raise HostError(f"GRUB's core of {len(core)} bytes does not fit into {room} bytes")
    struct.pack_into("<Q", boot, KERNEL_SECTOR, first)
    # boot.S jumps over a workaround for BIOSes that pass a floppy's number; two NOPs switch it on.
    boot[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    sectors = -(-len(core) // SECTOR)
    struct.pack_into("<QHH", core, BLOCKLIST, first + 1, sectors - 1, LOAD_SEGMENT)
    with image.open("r+b") as disk:
        disk.write(boot[:BOOT_CODE_BYTES])
        disk.seek(first * SECTOR)
        disk.write(core)


def install_efi(
    layout: Layout, image: Path, scratch: Path, *, epoch: int | None, log: Path | None = None
) -> None:
    """Fill the EFI system partition with GRUB under the fallback name of UEFI 2.10, 3.5.1.1."""
    part = layout.find("esp")
    if part is None:
        return
    _platform("x86_64-efi", "grub-efi-amd64-bin")
    binary = _mkimage("x86_64-efi", layout, scratch, [*MODULES, "efi_gop", "efi_uga"], log)
    tree = scratch / "esp"
    (tree / "EFI/BOOT").mkdir(parents=True)
    (tree / "EFI/BOOT/BOOTX64.EFI").write_bytes(binary)
    if epoch is not None:
        for path in (tree / "EFI/BOOT/BOOTX64.EFI", tree / "EFI/BOOT", tree / "EFI"):
            os.utime(path, (epoch, epoch))
    region = Region(image, part.start, part.size)
    make("vfat", tree, region, uuid=part.fs_uuid, label="ESP", epoch=epoch, log=log)


def _platform(name: str, package: str) -> Path:
    directory = GRUB_LIB / name
    if not (directory / "kernel.img").exists():
        raise HostError(f"GRUB for {name} is not on this host", hint=f"apt-get install {package}")
    return directory


def _mkimage(
    platform: str, layout: Layout, scratch: Path, modules: Sequence[str], log: Path | None
) -> bytes:
    boot = layout.boot_part
    prefix = grub_prefix(layout)
    table = "gpt" if layout.table == "gpt" else "msdos"
    config = scratch / f"early-{platform}.cfg"
    config.write_text(early_cfg(boot.fs_uuid, prefix))
    target = scratch / f"core-{platform}.img"
    run(
        [
            *("grub-mkimage", "-O", platform, "-d", str(GRUB_LIB / platform), "-o", str(target)),
            *("-c", str(config), "-p", f"(hd0,{table}{boot.number}){prefix}", *modules),
        ],
        log=log,
        timeout=60,
        what="building GRUB's core image",
    )
    return target.read_bytes()
