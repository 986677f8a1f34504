"""What workers that read strangers' files answer: a worker may have been taken over."""

from __future__ import annotations

import random
from typing import Any

from oracles import kernel_maker as maker

from imagekit.disk.isocontent import BootEntry, Content, IsoFile
from imagekit.host import wire
from imagekit.kernel.bootmenu import BootMenu
from imagekit.kernel.capability import judge
from imagekit.kernel.grub2 import read_grub2
from imagekit.kernel.image import read_kernel
from imagekit.kernel.initrd import parse_initrd
from imagekit.kernel.pygrub import PygrubChoice, PygrubRefusal, pygrub_view
from imagekit.kernel.report import KernelReport

from ..target import Target
from .menus import GRUB
from .network import mutate_json

_KINDS: tuple[Any, ...] = (
    KernelReport | None,
    PygrubChoice | PygrubRefusal | None,
    BootMenu | None,
    Content | None,
)


def _answers() -> list[bytes]:
    kernel = read_kernel(maker.bzimage(maker.elf(maker.note(1, maker.number(9)))), name="fuzz")
    initrd = parse_initrd(maker.cpio([("init", b"#!"), ("lib/modules/6.1/a.ko", b"")]), name="x")
    report = judge(kernel, initrd=initrd)
    files = (IsoFile("/a", 1, 2, "file"), IsoFile("/b", 0, 0, "directory"))
    content = Content("VOLUME", True, files, (BootEntry(0, 0, 1, 4),))
    choice = pygrub_view({"/boot/grub/grub.cfg": GRUB})
    return [
        wire.encode((report, None, None, None)),
        wire.encode((None, choice, read_grub2(GRUB), None)),
        wire.encode((None, PygrubRefusal("no"), None, content)),
    ]


def _mutate(source: random.Random, data: bytes) -> bytes:
    return mutate_json(source, data.replace(b",", b", "))


def _decode(data: bytes) -> bool:
    found = wire.decode(_KINDS, data)
    # What was taken can be told again: nothing of another type is in it.
    assert wire.decode(_KINDS, wire.encode(found)) == found
    return True


TARGETS = (Target("worker-answer", _answers, _mutate, _decode, ("no JSON",), (wire.WireError,)),)
