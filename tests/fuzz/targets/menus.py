"""Boot menus: what GRUB, pygrub, extlinux, isolinux and systemd-boot read."""

from __future__ import annotations

import random

from imagekit.installs.remaster import menus
from imagekit.kernel.bls import parse_bls
from imagekit.kernel.bootfindings import findings
from imagekit.kernel.grub2 import parse_grubenv, read_grub2
from imagekit.kernel.pygrub import PygrubRefusal, pygrub_view
from imagekit.kernel.pygrub_parse import parse_extlinux, parse_grub2, parse_grub_legacy

from .. import mutate
from ..target import Target

GRUB = """set default="${saved_entry}"
if [ "${next_entry}" ] ; then
  set default="${next_entry}"
fi
set timeout=5
export menuentry_id_option
function savedefault { save_env saved_entry }
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
\tload_video
\tset root='hd0,msdos1'
\tlinux\t/boot/vmlinuz-6.1.0-1-amd64 root=UUID=1-2 ro  quiet console=hvc0
\tinitrd\t/boot/initrd.img-6.1.0-1-amd64
}
submenu 'Advanced options' $menuentry_id_option 'adv' {
\tmenuentry "Debian, with Linux 6.1" --id x { linux16 (hd0,1)/vmlinuz a=$b; initrd16 /a /b
\t}
}
"""
LEGACY = """default 0
timeout=5
title Debian
root (hd0,0)
kernel /boot/xen.gz dom0_mem=1
module /boot/vmlinuz root=/dev/xvda1 ro
module /boot/initrd.img
title Other
\troot (hd0,1)
\tkernel (hd0,1)/vmlinuz ro
\tinitrd /initrd
"""
EXTLINUX = """default l0
timeout 20
label l0
\tmenu label Debian
\tkernel /boot/vmlinuz
\tappend initrd=/boot/initrd.img root=/dev/xvda1 ro
label l1
  kernel mboot.c32
  append xen.gz --- vmlinuz root=/dev/xvda1 --- initrd.img
"""
BLS = """title Fedora
version 6.1.0
linux /vmlinuz-6.1.0
initrd /initramfs-6.1.0.img $tuned_initrd
options root=UUID=1 ro $kernelopts
grub_class kernel
"""
ENVIRONMENT = "# GRUB Environment Block\nsaved_entry=1\nkernelopts=root=/dev/xvda1 ro\n" + "#" * 50

WORDS = (
    *("menuentry", "submenu", "function", "}", "{", "linux", "linux16", "initrd", "linuxefi"),
    *("set", "default=0", "default=1>2", "set default=x", "$default", "${a}${a}${a}", "a=$a$a"),
    *("'x", '"x', "\\", ";", "#", "$x", "${", "--id", "$menuentry_id_option", "title", "root"),
    *("(hd0,0)", "(hd0,msdos1)/a", "kernel", "module", "label", "append", "initrd=/x", "---"),
    *("mboot.c32", "default", "saved", "fallback", "options", "version", "if", "fi", "search"),
    *("multiboot", "configfile", "title=x", "-1", "9" * 20, "\u0663", "include x", "localboot 0"),
)


def _changed(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, WORDS)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _grub(data: bytes) -> bool:
    text = _text(data)
    findings(text)
    menu = read_grub2(text, grubenv={"saved_entry": "1", "a": "b"})
    return bool(menu.entries) and menu.chosen is not None


def _pygrub(data: bytes) -> bool:
    text = _text(data)
    found = False
    for path in ("/boot/grub/grub.cfg", "/boot/extlinux.conf", "/boot/grub/menu.lst"):
        found |= not isinstance(pygrub_view({path: text}), PygrubRefusal)
    return found or bool(parse_grub2(text).entries)


def _legacy(data: bytes) -> bool:
    return bool(parse_grub_legacy(_text(data)).entries)


def _extlinux(data: bytes) -> bool:
    return bool(parse_extlinux(_text(data)).entries)


def _bls(data: bytes) -> bool:
    parts = _text(data).split("%%")
    files = {f"{index}{part[:20]}.conf": part for index, part in enumerate(parts)}
    return bool(parse_bls(files, grubenv={"kernelopts": "ro", "saved_entry": "0"}).entries)


def _environment(data: bytes) -> bool:
    return bool(parse_grubenv(_text(data)))


def _of_iso(data: bytes) -> bool:
    text = _text(data)
    found = [*menus.read_isolinux("/isolinux.cfg", text), *menus.read_grub("/grub.cfg", text)]
    menus.choose(found)
    return bool(found)


TARGETS = (
    Target("grub.cfg", lambda: [GRUB.encode()], _changed, _grub),
    Target("pygrub", lambda: [t.encode() for t in (GRUB, LEGACY, EXTLINUX)], _changed, _pygrub),
    Target("grub-legacy", lambda: [LEGACY.encode()], _changed, _legacy),
    Target("extlinux", lambda: [EXTLINUX.encode()], _changed, _extlinux),
    Target("boot-loader-entries", lambda: [f"{BLS}%%{BLS}".encode()], _changed, _bls),
    Target("grubenv", lambda: [ENVIRONMENT.encode()], _changed, _environment),
    Target("menus-of-isos", lambda: [t.encode() for t in (GRUB, EXTLINUX)], _changed, _of_iso),
)
