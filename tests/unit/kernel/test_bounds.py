"""Small hostile kernels and boot menus cost memory and time in proportion to their size."""

from __future__ import annotations

import functools
import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest
from oracles.kernel_maker import ENTRY, FEATURES, elf, note, number

from imagekit.errors import ImageError
from imagekit.kernel import elf as elf_format
from imagekit.kernel import xen_notes
from imagekit.kernel.bootconfig import (
    findings,
    parse_bls,
    parse_extlinux,
    parse_grub2,
    parse_grub_legacy,
    read_grub2,
)
from imagekit.kernel.bootmenu import MAX_TEXT

SECONDS = 5.0
MEMORY = 96 << 20


def measured(action: Callable[[], object]) -> None:
    """``action`` ends soon, with little memory; an ImageError is an answer."""
    tracemalloc.start()
    started = time.process_time()
    try:
        action()
    except ImageError as error:
        assert len(str(error)) < 1000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
    # tracing makes everything several times slower
    assert time.process_time() - started < 3 * SECONDS


def overlapping(notes: bytes, count: int, *, sections: bool = False) -> bytes:
    """A 64-bit ELF file of which ``count`` segments or sections are the same ``notes``."""
    size = 64 if sections else 56
    at = 64 + size * count
    if sections:
        part = struct.pack("<IIQQQQIIQQ", 0, 7, 0, 0, at, len(notes), 0, 0, 4, 0)
        tables, counts = (0, 64), (56, 0, 64, count, 0)
    else:
        part = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), len(notes), 4)
        tables, counts = (64, 0), (56, count, 64, 0, 0)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIH5H", 2, 62, 1, 0, *tables, 0, 64, *counts)
    return header + part * count + notes


@pytest.mark.parametrize("sections", [False, True])
@pytest.mark.parametrize(
    "notes",
    [
        note(1, bytes(1 << 20)),
        note(1, bytes(1 << 20), b"Other\0"),
        note(ENTRY, b"", b"x" * 40) * 20_000,
        note(ENTRY, b"") * 60_000,
        struct.pack("<III", 33, 0, 1) + bytes(36),
        b"".join(note(10, b"!a|" * 300_000) for _ in range(2)),
    ],
    ids=["large", "large of others", "long names", "empty", "one long name", "features"],
)
def test_notes_that_overlap_are_counted_together(notes: bytes, *, sections: bool) -> None:
    data = overlapping(notes, 4000, sections=sections)
    measured(lambda: xen_notes.read(elf_format.parse(data, where="k")).pv_refusal())


def test_what_passes_the_limits_is_an_error_that_says_so() -> None:
    with pytest.raises(ImageError, match="more than 1 MiB"):
        elf_format.parse(overlapping(note(1, bytes(600_000)), 2), where="k")
    with pytest.raises(ImageError, match="too many notes"):
        elf_format.parse(overlapping(note(1, b"", b"y" * 33) * 2, 2100), where="k")
    whole = elf_format.parse(overlapping(note(ENTRY, number(7)), 4000), where="k")
    assert xen_notes.read(whole).entry == 7


def test_long_texts_of_a_kernel_are_cut() -> None:
    long = elf(note(FEATURES, b"!" + b"f" * 500_000) + note(5, b"xen-3.0") + note(6, b"linux"))
    said = xen_notes.read(elf_format.parse(long, where="k")).pv_refusal()
    assert said is not None
    assert len(said) < 5000
    data = elf(xen_guest=b"LOADER=generic," + b"," * 2_000_000)
    measured(lambda: xen_notes.read(elf_format.parse(data, where="k")))


ENTRY_TEXT = "menuentry 'a' {\nlinux $v $v $v\ninitrd $v $v\n}\n"
MENUS = {
    "args": f"set v={'x' * 4000}\n" + ENTRY_TEXT * 9000,
    "titles": f"set v={'x' * 4000}\n" + 'menuentry "$v$v$v$v$v$v$v$v$v$v" {\n}\n' * 9000,
    "one word": f"set v={'x' * 4000}\nmenuentry a {{\nlinux {'$v' * 30_000}\n}}\n",
    "many words": f"set v={'x' * 4000}\nmenuentry a {{\nlinux {'$v ' * 20_000}\n}}\n",
    "braces": f"set v={'x' * 4000}\nmenuentry a {{\nlinux {'${v}' * 15_000}\n}}\n",
    "variables": f"set v={'x' * 4000}\n" + "".join(f"set a{i}=$v\n" for i in range(50_000)),
    "empty lines": "\n" * (1 << 20),
    "short lines": "a\n" * (1 << 17),
    "labels": "label a\n" * 9999 + "append " + "initrd=a " * 7000,
    "submenus": "submenu a {\n" * 63 + "menuentry a {\n}\n" * 9999,
}


@pytest.mark.parametrize("menu", MENUS)
def test_menus_cost_what_their_size_says(menu: str) -> None:
    text = MENUS[menu]
    for read in (read_grub2, parse_grub2, parse_grub_legacy, parse_extlinux, findings):
        measured(functools.partial(read, text))


@pytest.mark.parametrize(
    "files",
    [
        {f"{i}.conf": "linux /k\noptions $v $v $v $v\n" for i in range(9999)},
        {"a.conf": "linux /k\n" + f"options {'$v' * 30_000}\n" * 60},
        {"a.conf": "linux /k\n" + f"initrd {'$v ' * 20_000}\n" * 60},
        {"a.conf": "linux /k\n" + f"options {'${v}' * 100}\n" * 9000},
    ],
)
def test_boot_loader_entries_are_bounded_together(files: dict[str, str]) -> None:
    with pytest.raises(ImageError, match="expand to more than"):
        parse_bls(files, grubenv={"v": "x" * 4000})
    measured(lambda: parse_bls(files, grubenv={"v": "x" * 4000}))


def test_boot_loader_entries_are_measured_before_they_are_read() -> None:
    files = {f"{i}.conf": "#" * 1000 + "\n" for i in range(MAX_TEXT // 1000)}
    with pytest.raises(ImageError, match="4 MiB"):
        parse_bls(files)


def test_a_large_menu_of_a_real_guest_is_read() -> None:
    entry = "menuentry 'L' {\nlinux /boot/vmlinuz root=$root ro quiet $extra\ninitrd /boot/i\n}\n"
    text = "set root=/dev/xvda1\nset extra='a b'\n" + entry * 2000
    menu = read_grub2(text)
    assert len(menu.entries) == 2000
    assert menu.entries[-1].args == "root=/dev/xvda1 ro quiet a b"
    bls = parse_bls(
        {f"{i}.conf": f"linux /k{i}\ninitrd /i$t /j\noptions $kernelopts ro\n" for i in range(500)},
        grubenv={"kernelopts": "root=/dev/xvda2 console=hvc0"},
    )
    assert bls.entries[0].args == "root=/dev/xvda2 console=hvc0 ro"
    assert bls.entries[0].initrds == ("/i", "/j")
