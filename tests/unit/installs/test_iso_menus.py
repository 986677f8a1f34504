"""Boot menus of installer ISOs: what is chosen from them, and what is written in their place."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import SpecError
from imagekit.installs.remaster import cpio, menus
from imagekit.kernel.grub2 import read_grub2
from imagekit.kernel.initrd import parse_initrd

ISOLINUX_RHEL = """default vesamenu.c32
timeout 600
label linux
  menu label ^Install Rocky Linux 9.4
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky-9-4-x86_64-dvd quiet
label check
  menu label Test this ^media & install
  menu default
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky-9-4-x86_64-dvd rd.live.check quiet
label rescue
  kernel vmlinuz
  append initrd=initrd.img inst.rescue quiet
label local
  localboot 0xffff
"""
GRUB_RHEL = """set default="1"
function load_video { insmod all_video; }
search --no-floppy --set=root -l 'Rocky 9'
menuentry 'Install Rocky' --class fedora {
\tlinuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Rocky\\x209 quiet
\tinitrdefi /images/pxeboot/initrd.img
}
menuentry 'Test this media & install' {
\tlinuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Rocky\\x209 rd.live.check quiet
\tinitrdefi /images/pxeboot/initrd.img
}
"""
GRUB_UBUNTU = """set timeout=30
menuentry "Try or Install Ubuntu Server" {
\tset gfxpayload=keep
\tlinux\t/casper/vmlinuz  ---
\tinitrd\t/casper/initrd
}
menuentry "Ubuntu Server with the HWE kernel" {
\tlinux\t/casper/hwe-vmlinuz  ---
\tinitrd\t/casper/hwe-initrd
}
"""
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\"\\'"))


def test_the_plain_installation_is_chosen_not_the_media_check_nor_rescue() -> None:
    entry = menus.choose(menus.read_isolinux("/isolinux/isolinux.cfg", ISOLINUX_RHEL))
    assert entry is not None and entry.title == "linux"
    assert menus.path_in_iso(entry, entry.kernel) == "/isolinux/vmlinuz"
    assert menus.path_in_iso(entry, entry.initrds[0]) == "/isolinux/initrd.img"


def test_an_isolinux_menu_starts_by_itself_with_the_added_arguments_as_they_are() -> None:
    entry = menus.choose(menus.read_isolinux("/isolinux/isolinux.cfg", ISOLINUX_RHEL))
    assert entry is not None
    text = menus.isolinux_cfg(entry, ["inst.ks=file:/ks.cfg", "ds=nocloud;s=/cdrom/x/"])
    (again,) = menus.read_isolinux("/isolinux/isolinux.cfg", text)
    assert again.default and again.initrds == ("initrd.img",)
    assert again.args == (
        "inst.stage2=hd:LABEL=Rocky-9-4-x86_64-dvd inst.ks=file:/ks.cfg ds=nocloud;s=/cdrom/x/"
    )
    assert re.search(r"(?m)^PROMPT 0$", text) and re.search(r"(?m)^TIMEOUT 1$", text)


def test_grubs_way_to_the_iso_its_commands_and_escapes_are_kept() -> None:
    entry = menus.choose(menus.read_grub("/EFI/BOOT/grub.cfg", GRUB_RHEL))
    assert entry is not None
    text = menus.grub_cfg(entry, ["inst.ks=file:/ks.cfg"], GRUB_RHEL)
    assert "search --no-floppy --set=root -l 'Rocky 9'\n" in text
    assert (
        "linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Rocky\\x209 inst.ks=file:/ks.cfg\n"
        in text
    )
    assert "initrdefi /images/pxeboot/initrd.img\n" in text and "rd.live.check" not in text


def test_grub_is_given_a_semicolon_in_quotes() -> None:
    entry = menus.choose(menus.read_grub("/boot/grub/grub.cfg", GRUB_UBUNTU))
    assert entry is not None and entry.kernel == "/casper/vmlinuz"
    text = menus.grub_cfg(entry, ["autoinstall", "ds=nocloud;s=/cdrom/autoinstall/"], GRUB_UBUNTU)
    assert "autoinstall 'ds=nocloud;s=/cdrom/autoinstall/' ---" in text


@given(st.lists(WORDS.filter(lambda w: w and not w.isspace() and w == w.strip()), max_size=5))
def test_another_reader_of_grub_sees_the_words_that_were_added(words: list[str]) -> None:
    entry = menus.Entry(menus.GRUB, "/boot/grub/grub.cfg", "x", "/linux", ("/initrd",), "")
    menu = read_grub2(menus.grub_cfg(entry, words, ""))
    assert menu.entries[0].args.split() == " ".join(words).split()


@pytest.mark.parametrize("word", ["", "a\nb", 'a"b', "a\\b", "\u00e4", "a\x00"])
def test_an_argument_no_loader_can_pass_on_is_refused(word: str) -> None:
    for quote in (menus.isolinux_word, menus.grub_word):
        with pytest.raises(SpecError):
            quote(word)


def test_more_arguments_than_isolinux_passes_on_are_refused() -> None:
    entry = menus.Entry(menus.ISOLINUX, "/isolinux/isolinux.cfg", "x", "linux", ("initrd",), "")
    with pytest.raises(SpecError):
        menus.isolinux_cfg(entry, ["x" * 3000])


def test_what_follows_the_dashes_stays_there_and_graphics_words_go() -> None:
    entry = menus.Entry(menus.GRUB, "/g", "x", "/l", ("/i",), "vga=788 a=b --- quiet c=d")
    assert menus.arguments(entry, ["auto=true"]) == "a=b auto=true --- c=d"


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9./_-]{0,40}", fullmatch=True), st.binary()))
def test_cpio_unpacks_what_we_packed(files: dict[str, bytes]) -> None:
    flat = {name.replace("/", "_").replace("..", "_"): data for name, data in files.items()}
    done = subprocess.run(
        ["cpio", "-it", "--quiet"], input=cpio.archive(flat), capture_output=True, check=True
    )
    assert done.stdout.decode().split() == list(flat)


def test_our_reader_of_initrds_finds_the_appended_segment(tmp_path: Path) -> None:
    base = tmp_path
    (base / "initrd.gz").write_bytes(gzip.compress(cpio.archive({"init": b"#!/bin/sh\n"})))
    cpio.append(base / "initrd.gz", base / "out", {"preseed.cfg": b"d-i a/b string c\n"})
    found = parse_initrd((base / "out").read_bytes(), name="out")
    assert [s.codec for s in found.segments] == ["gzip", "cpio"]
    assert (base / "out").read_bytes().startswith((base / "initrd.gz").read_bytes())
