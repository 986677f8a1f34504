"""Bootloader configurations: pygrub's reading, GRUB's own, and where they differ."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import ImageError, ImagekitError
from imagekit.kernel.bootconfig import (
    CONFIG_PATHS,
    PygrubChoice,
    PygrubRefusal,
    findings,
    parse_bls,
    parse_extlinux,
    parse_grub2,
    parse_grub_legacy,
    parse_grubenv,
    pygrub_view,
    read_grub2,
)

SIMPLE = """set default="0"
set timeout="1"
menuentry 'Linux 6.1.0' --class imagekit {
	search --no-floppy --fs-uuid --set=root 0b1e
	linux /boot/vmlinuz root=UUID=0b1e ro console=hvc0
	initrd /boot/initrd.img
}
"""

MKCONFIG = """if [ -s $prefix/grubenv ]; then
  load_env
fi
set default="1>gnulinux-old"
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
function load_video {
  insmod all_video
}
menuentry 'Debian' --class os $menuentry_id_option 'gnulinux-simple' {
	set root='hd0,msdos1'
	linux	/boot/vmlinuz-6 root=/dev/xvda1 ro
	initrd	/boot/initrd-6
}
submenu 'More' $menuentry_id_option 'gnulinux-advanced' {
	menuentry 'New' $menuentry_id_option 'gnulinux-new' {
		linux /boot/vmlinuz-6 root=/dev/xvda1 ro single
		initrd /boot/initrd-6
	}
	menuentry 'Old' $menuentry_id_option 'gnulinux-old' {
		linux /boot/vmlinuz-5 root=/dev/xvda1 ro
		initrd /boot/initrd-5
	}
}
"""


def test_config_that_we_write_is_read_alike_by_grub_and_pygrub() -> None:
    mine, theirs = read_grub2(SIMPLE).chosen, parse_grub2(SIMPLE).chosen
    assert mine is not None
    assert theirs is not None
    assert mine.kernel == theirs.kernel == "/boot/vmlinuz"
    assert mine.initrds == theirs.initrds == ("/boot/initrd.img",)
    assert mine.args == theirs.args == "root=UUID=0b1e ro console=hvc0"
    assert findings(SIMPLE) == ()


def test_grub_follows_a_default_into_a_submenu_and_pygrub_does_not() -> None:
    assert read_grub2(MKCONFIG).default == 2
    assert parse_grub2(MKCONFIG).default == 0
    assert {finding.code for finding in findings(MKCONFIG)} == {"submenu", "default-title"}


@pytest.mark.parametrize(
    ("default", "index"),
    [("0", 0), ("1", 1), ("1>1", 2), ("More>Old", 2), ("gnulinux-new", 1), ("9", 0), ("", 0)],
)
def test_grub_defaults_by_number_title_and_id(default: str, index: int) -> None:
    assert read_grub2(MKCONFIG.replace("1>gnulinux-old", default)).default == index


def test_saved_entry_comes_from_the_environment_block() -> None:
    env = parse_grubenv("# GRUB Environment Block\nsaved_entry=1>gnulinux-old\n" + "#" * 900)
    text = MKCONFIG.replace("1>gnulinux-old", "${saved_entry}")
    assert read_grub2(text, grubenv=env).default == 2
    assert read_grub2(text).default == 0


def test_grub_expands_variables_and_pygrub_takes_them_as_text() -> None:
    text = "set kver=6.1\nmenuentry 'A' {\n linux /vmlinuz-$kver ro\n initrd /ucode /i-${kver}\n}\n"
    entry = read_grub2(text).entries[0]
    assert (entry.kernel, entry.initrds) == ("/vmlinuz-6.1", ("/ucode", "/i-6.1"))
    assert parse_grub2(text).entries[0].kernel == "/vmlinuz-$kver"
    assert isinstance(pygrub_view({"/boot/grub/grub.cfg": text}), PygrubRefusal)
    assert [f.code for f in findings(text)] == ["variable", "variable", "several-initrds"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("menuentry Unquoted {\n}", "menuentry-form"),
        ("menuentry 'No brace'\n{\n}", "menuentry-form"),
        ("menuentry 'A' {\nlinux /a 'x y'\n}", "quotes"),
        ("menuentry 'A' {\nlinuxefi /a\n}", "unknown-command"),
        ("menuentry 'A' {\ninitrd /a /b\n}", "several-initrds"),
        ("menuentry 'A' {\nlinux /a-$k\n}", "variable"),
        ("blscfg", "blscfg"),
        ('set default="${saved_entry}"', "default-variable"),
        ('set default="Linux"', "default-title"),
        ("insmod ext2", "no-entries"),
        ("set a=b=c", "unreadable"),
    ],
)
def test_findings_name_the_construct_and_its_line(line: str, code: str) -> None:
    found = {finding.code: finding for finding in findings("# comment\n" + line)}
    assert code in found
    assert found[code].line == 0 or found[code].line >= 2


def test_first_config_that_exists_is_the_only_one_read() -> None:
    files = {"/boot/grub/menu.lst": "title A\nkernel /k ro\n", "/boot/grub2/grub.cfg": "# none\n"}
    refused = pygrub_view(files)
    assert isinstance(refused, PygrubRefusal)
    assert refused.config == "/boot/grub2/grub.cfg"
    del files["/boot/grub2/grub.cfg"]
    chosen = pygrub_view(files)
    assert isinstance(chosen, PygrubChoice)
    assert (chosen.kernel, chosen.args) == ("/k", "ro")
    assert isinstance(pygrub_view({}), PygrubRefusal)
    assert len(CONFIG_PATHS) == 13


def test_files_that_are_not_there_end_in_refusal() -> None:
    files = {"/boot/grub/grub.cfg": SIMPLE}
    there = {"/boot/vmlinuz", "/boot/initrd.img"}
    assert isinstance(pygrub_view(files, exists=there.__contains__), PygrubChoice)
    for missing in there:
        refused = pygrub_view(files, exists=(there - {missing}).__contains__)
        assert isinstance(refused, PygrubRefusal)
        assert missing in refused.reason


def test_text_that_is_not_utf8_is_refused() -> None:
    text = b"menuentry '\xff' {\nlinux /a\n}\n".decode("utf-8", "surrogateescape")
    assert isinstance(pygrub_view({"/boot/grub/grub.cfg": text}), PygrubRefusal)


def test_legacy_menu_and_its_default() -> None:
    text = "default 1\ntitle A\nroot (hd0,0)\nkernel /a x\ntitle B\nkernel (hd0,0)/b y z\ninitrd /i"
    menu = parse_grub_legacy(text)
    assert menu.chosen is not None
    assert (menu.chosen.kernel, menu.chosen.args, menu.chosen.initrds) == ("/b", "y z", ("/i",))
    assert menu.entries[0].root == "(hd0,0)"


def test_extlinux_takes_the_initrd_out_of_append() -> None:
    text = "DEFAULT two\nLABEL one\nKERNEL /a\nLABEL two\nKERNEL /b\nAPPEND initrd=/i root=/dev/x"
    menu = parse_extlinux(text)
    assert menu.chosen is not None
    assert (menu.chosen.kernel, menu.chosen.initrds) == ("/b", ("/i",))
    assert menu.chosen.args == "root=/dev/x"


def test_bls_entries_newest_first_and_saved_entry() -> None:
    files = {
        f"abc-{version}.conf": f"title Linux {version}\nlinux /vmlinuz-{version}\n"
        f"initrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts quiet\n"
        for version in ("6.9.0", "6.10.0", "5.14.0")
    }
    menu = parse_bls(files, grubenv={"kernelopts": "root=/dev/xvda1 ro"})
    assert [entry.kernel for entry in menu.entries] == [
        "/vmlinuz-6.10.0",
        "/vmlinuz-6.9.0",
        "/vmlinuz-5.14.0",
    ]
    assert menu.default == 0
    assert menu.entries[0].args == "root=/dev/xvda1 ro quiet"
    assert menu.entries[0].initrds == ("/initramfs-6.10.0.img",)
    saved = parse_bls(files, grubenv={"saved_entry": "abc-5.14.0"})
    assert saved.chosen is not None
    assert saved.chosen.kernel == "/vmlinuz-5.14.0"
    counted = parse_bls({"x-1+3-0.conf": "linux /k"}, grubenv={"saved_entry": "x-1"})
    assert counted.chosen is not None
    assert counted.chosen.id == "x-1"


LINES = st.sampled_from(
    [
        "menuentry 'A' {",
        'menuentry "B" --id b {',
        "submenu 'S' {",
        "}",
        "linux /a ro",
        "initrd /b",
        "set default=1",
        "set root='hd0,1'",
        "function f {",
        "title T",
        "kernel /k",
        "label L",
        "append initrd=/x",
        "if [ x ]; then",
    ]
)


@given(st.lists(st.one_of(LINES, st.text(max_size=30)), max_size=30))
@settings(max_examples=300, deadline=None)
def test_arbitrary_configs_raise_nothing_unforeseen(lines: list[str]) -> None:
    text = "\n".join(lines)
    for read in (parse_grub2, parse_grub_legacy, parse_extlinux, read_grub2):
        try:
            menu = read(text)
        except ImagekitError:
            continue
        assert menu.default is None or menu.default < len(menu.entries)
    findings(text)
    parse_bls({"a.conf": text})
    parse_grubenv(text)
    pygrub_view({"/boot/grub/grub.cfg": text})


def test_hostile_configs_are_read_in_bounded_time() -> None:
    started = time.process_time()
    texts = [
        "menuentry '" + "' " * 30_000,
        ("label a\nappend " + " ".join(f"initrd={n}" for n in range(6000)) + "\n") * 3,
        "submenu 'a' {\n" * 60,
        "set a=" + "$a" * 2000 + "\n" + "set a=x$a$a\n" * 200,
    ]
    for text in texts:
        for read in (parse_grub2, parse_extlinux, read_grub2):
            try:
                read(text)
            except ImageError:
                continue
    assert time.process_time() - started < 3
    with pytest.raises(ImageError, match="64 KiB"):
        parse_grub2("x" * 70_000)
