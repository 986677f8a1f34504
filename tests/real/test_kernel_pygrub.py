"""Our reading of bootloader configurations against the real pygrub's, on generated files."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from imagekit.kernel.bootconfig import CONFIG_PATHS, PygrubChoice, pygrub_view

PYGRUB = next(iter(sorted(Path("/usr/lib").glob("xen-*/bin/pygrub"))), None)
ORACLE = Path(__file__).parent.parent / "oracles" / "pygrub_choice.py"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(PYGRUB is None, reason="pygrub is missing (package xen-utils-4.17)"),
]

GRUB2 = [
    "menuentry 'A' {",
    'menuentry "B" --class x {',
    "menuentry 'C' --id 'c d' { # '",
    "menuentry 'D's' --x 'y' {",
    "menuentry '' {",
    "menuentry Plain {",
    "menuentry 'NoBrace'",
    "menuentry 'E'{",
    "menuentry  'F' {",
    "submenu 'S' {",
    "function f {",
    "}",
    "}",
    "}",
    "} # end",
    "linux /vmlinuz root=/dev/xvda ro",
    "linux\t/vmlinuz root=UUID=1 a='b c'",
    "linux16 /v16",
    "linux /vmlinuz\troot=x",
    "linux (hd0,msdos1)/vm ro",
    "linux (hd0,gpt2)/vm",
    "linux ($root)/vm ro",
    "linux ${k} ro",
    "linux",
    "linux=/odd ro",
    "linuxefi /efi ro",
    "initrd /initrd.img",
    "initrd16 /i16",
    "initrd (hd1)/i",
    "initrd (hd0,1,2)/i",
    "initrd (oops",
    "initrd",
    "set root='hd0,msdos1'",
    "set root=(hd0,1)",
    "set root='lvm/vg-root'",
    "set root=/dev/xvda,1",
    "set root=/dev/xvd",
    "set",
    "set x",
    "set a=b=c",
    "set default=0",
    'set default="1"',
    "set default='2'",
    "set default=-1",
    "set default=saved",
    "set default= 1 ",
    "set default=1_0",
    'set default="A"',
    'set default="${saved_entry}"',
    "set default=${next_entry}",
    "default=1",
    "set timeout=5",
    "if [ x = y ]; then",
    "fi",
    "# comment",
    "echo 'Loading ...'",
    "search --set=root abc",
    "export a",
    "\N{NO-BREAK SPACE}linux /nbsp x",
]
LEGACY = [
    "default 0",
    "default=1",
    "default saved",
    "default -2",
    "default\t1",
    "timeout 5",
    "splashimage=(hd0,0)/s.xpm.gz",
    "splashimage (x",
    "password --md5 $1$x",
    "title A",
    "title  B b ",
    "titleC",
    "title",
    "root (hd0,0)",
    "root (hdx,0)",
    "rootnoverify (hd0)",
    "kernel /k ro root=/dev/x",
    "kernel (hd0,1)/k",
    "kernel /xen.gz dom0_mem=1G",
    "kernel",
    "module /vmlinuz ro",
    "initrd /i",
    "initrd (hd0,0)/i x",
    "# comment",
    "\tkernel\t/tabs ro",
]
EXTLINUX = [
    "DEFAULT two",
    "default one",
    "DEFAULT=one",
    "TIMEOUT 1",
    "LABEL one",
    "label two",
    "Label",
    "labelfoo x",
    "KERNEL /vmlinuz",
    "kernel /vmlinuz root=x ro",
    "KERNEL mboot.c32",
    "LINUX /linux",
    "INITRD /i",
    "APPEND ro quiet",
    'append "quoted args"',
    'append ""',
    "APPEND initrd=/i.img root=/dev/x  initrd=/j",
    "append INITRD=/upper x=y",
    "APPEND root=x initrd=/i.img",
    "append xen.gz a --- vmlinuz b c --- initrd",
    "append vmlinuz b --- initrd d",
    "append a --- b --- c --- d",
    "append --- --- ",
    "MENU DEFAULT",
    "kernel=/odd",
    "# comment",
]


def ask(systems: list[dict[str, str]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["/usr/bin/python3", str(ORACLE), str(PYGRUB)],
        input=json.dumps(systems).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def random_config(rng: random.Random, path: str) -> str:
    if "menu.lst" in path or path.endswith("grub.conf"):
        lines = LEGACY
    elif path.endswith("grub.cfg"):
        return random_grub2(rng)
    else:
        lines = EXTLINUX
    return "\n".join(rng.choices(lines, k=rng.randrange(12)))


def random_grub2(rng: random.Random) -> str:
    """Mostly well-formed entries, so that many files are accepted, and some nonsense."""
    out: list[str] = []
    for _ in range(rng.randrange(4)):
        out += rng.choices(GRUB2[32:], k=rng.randrange(3))
        if rng.random() < 0.75:
            out.append(rng.choice(GRUB2[:5]))
            out += rng.choices(GRUB2[15:33], k=rng.randrange(1, 4))
            out.append("}")
        else:
            out += rng.choices(GRUB2, k=rng.randrange(6))
    return "\n".join(rng.choice(["", "  ", "\t"]) + line for line in out)


def test_choice_equals_real_pygrub_on_thousands_of_files() -> None:
    rng = random.Random(4177)
    systems = []
    for _ in range(12_000):
        paths = rng.sample(CONFIG_PATHS, rng.choice([1, 1, 1, 2, 3]))
        systems.append({path: random_config(rng, path) for path in paths})
    chosen = 0
    for files, theirs in zip(systems, ask(systems), strict=True):
        mine = pygrub_view(files, exists=lambda _path: True)
        if "error" in theirs:
            assert not isinstance(mine, PygrubChoice), (files, mine, theirs)
        else:
            assert isinstance(mine, PygrubChoice), (files, mine, theirs)
            assert mine.kernel == theirs["kernel"], files
            assert (mine.initrd or "") == (theirs["ramdisk"] or ""), files
            assert mine.args == theirs["args"], files
            chosen += 1
    assert chosen > 1000


def test_what_pygrub_reads_of_grubs_own_generated_file() -> None:
    text = (
        'set default="0"\nif [ "${next_entry}" ] ; then\n   set default="${next_entry}"\n'
        "   set next_entry=\n   save_env next_entry\n   set boot_once=true\nelse\n"
        '   set default="0"\nfi\nfunction savedefault {\n  if [ -z "x" ]; then\n    save_env a\n'
        "  fi\n}\nmenuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux' {\n"
        "\tinsmod gzio\n\tset root='hd0,gpt1'\n\tlinux\t/boot/vmlinuz-6.1 root=UUID=a ro quiet\n"
        "\tinitrd\t/boot/initrd.img-6.1\n}\n"
    )
    files = {"/boot/grub/grub.cfg": text}
    (theirs,) = ask([files])
    mine = pygrub_view(files)
    assert isinstance(mine, PygrubChoice)
    assert [mine.kernel, mine.initrd, mine.args] == [
        theirs["kernel"],
        theirs["ramdisk"],
        theirs["args"],
    ]
