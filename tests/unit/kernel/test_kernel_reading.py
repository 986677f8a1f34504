"""Kernels, initrds and menus of strangers cost their reader, and never us."""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oracles import kernel_maker as make

from imagekit.errors import ImageError, ImagekitError, SpecError
from imagekit.kernel import capability, reading
from imagekit.kernel.bootconfig import findings, pygrub_view, read_grub2
from imagekit.kernel.image import read_kernel
from imagekit.kernel.pygrub import PygrubRefusal

MIB = 1 << 20
GRUB = "/boot/grub/grub.cfg"
MENU = "set default=0\nmenuentry 'a' {\n  linux /vmlinuz root=/dev/xvda1\n  initrd /initrd\n}\n"


@contextlib.contextmanager
def little_memory(more: int = 96 * MIB) -> Iterator[None]:
    """This process may take ``more`` bytes of address space than it has, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(make.bzimage(make.elf(), "gzip"))
    return path


def test_the_answer_is_that_of_the_parsers(kernel: Path, tmp_path: Path) -> None:
    initrd, config = tmp_path / "initrd.img", tmp_path / "config"
    initrd.write_bytes(make.cpio([("init", b"x"), ("lib/modules/1/xen-blkfront.ko", b"")]))
    config.write_text("CONFIG_XEN=y\nCONFIG_XEN_PV=y\n")
    for extra in ({}, {"initrd": initrd}, {"config": config}, {"initrd": initrd, "config": config}):
        assert reading.examine(kernel, **extra) == capability.examine(kernel, **extra)
    assert reading.release(kernel) == read_kernel(kernel.read_bytes(), name="k").release


def test_menus_are_those_of_the_parsers() -> None:
    texts = {GRUB: MENU, "/extlinux.conf": "odd \udcff name"}
    read = reading.menus(texts, grub_config=GRUB, grubenv="saved_entry=0\n", where="xvda1")
    assert read.pygrub == pygrub_view(texts)
    assert read.grub == read_grub2(MENU, grubenv={"saved_entry": "0"}, source=GRUB)
    assert reading.differences(MENU, source=GRUB) == findings(MENU, source=GRUB)
    assert isinstance(reading.menus({}, where="xvda1").pygrub, PygrubRefusal)


@pytest.mark.parametrize("what", ["missing", "directory", "fifo", "empty", "text", "link to dir"])
def test_what_is_no_kernel_is_an_error_and_nothing_is_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "k"
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link to dir":
        path.symlink_to(tmp_path)
    elif what != "missing":
        path.write_text("" if what == "empty" else "a kernel")
    with pytest.raises(ImageError if what in ("empty", "text") else SpecError) as caught:
        reading.examine(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_swapped_under_its_name_is_read_as_it_was_opened(
    kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = capability.examine(kernel)
    real = reading._EXAMINE

    def swapped(where: str, files: list[int], *arguments: Any) -> Any:
        secret = tmp_path / "secret"
        secret.write_bytes(b"root:hash:")
        kernel.unlink()
        kernel.symlink_to(secret)
        return real(where, files, *arguments)

    monkeypatch.setattr(reading, "_EXAMINE", swapped)
    assert reading.examine(kernel) == expected


def notes_bomb(size: int) -> bytes:
    """An ELF file of ``size`` bytes whose 4096 note segments are all the whole of it."""
    note = struct.pack("<III", 4, 1, 18) + b"Xen\0" + bytes(4)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 4096, 0, 0, 0)
    at = 64 + 4096 * 56
    body = note * ((size - at) // len(note))
    segment = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(body), len(body), 4)
    return header + segment * 4096 + body


def test_a_bomb_of_notes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(notes_bomb(2 * MIB))
    with little_memory(), pytest.raises(ImageError):
        reading.examine(path)


def zeros(count: int) -> bytes:
    """``count`` MiB of zeros in gzip."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(MIB)
    return b"".join(packer.compress(block) for _ in range(count)) + packer.flush()


def test_a_kernel_that_unpacks_to_gigabytes_takes_none_of_our_memory(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(make.bzimage(b"", "gzip", compress=lambda _: zeros(1024)))
    with little_memory():
        report = reading.examine(path)
    assert report.payload_error is not None
    assert "512 MiB" in report.payload_error or "memory" in report.payload_error


def test_a_kernel_that_fills_its_limit_takes_none_of_our_memory(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(make.bzimage(b"", "gzip", compress=lambda _: zeros(400)))
    with little_memory():
        assert reading.examine(path).payload_error is not None


def test_an_initrd_of_a_million_files_is_bounded(kernel: Path, tmp_path: Path) -> None:
    entry = b"070701" + b"%08X" * 13 % (1, 0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0) + b"a\0"
    packer = zlib.compressobj(9, wbits=31)
    path = tmp_path / "initrd"
    path.write_bytes(packer.compress(entry * 1_000_000) + packer.flush())
    with little_memory():
        report = reading.examine(kernel, initrd=path)
    assert report.initrd is not None
    assert any("more than" in problem for problem in report.initrd.problems)


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"set v{n}=$v{n - 1}$v{n - 1}\n" for n in range(1, 64)) + "menuentry $v63 {\n}\n",
        "set a=" + "x" * 60_000 + "\n" + "menuentry '$a' {\n linux $a $a\n}\n" * 9000,
        "menuentry 'a' {\n linux /k\n}\n" * 300_000,
        "submenu 'a' {\n" * 100_000,
        "x" * (5 * MIB),
    ],
)
def test_a_menu_that_expands_takes_none_of_our_memory(text: str) -> None:
    with little_memory(192 * MIB):
        try:
            read = reading.menus({GRUB: text}, grub_config=GRUB, where="xvda1")
        except ImagekitError as error:
            assert "xvda1" in str(error)
        else:
            assert read.grub is None or sum(len(e.title + e.args) for e in read.grub.entries) < (
                8 * MIB
            )
