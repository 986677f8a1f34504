"""Kernels, initrds and what they are packed with."""

from __future__ import annotations

import bz2
import lzma
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import lz4.block
import zstandard
from oracles import kernel_maker as maker

from imagekit.errors import ImagekitError
from imagekit.kernel import codecs
from imagekit.kernel.capability import judge
from imagekit.kernel.cpio import CpioEntry, CpioError, CpioReader
from imagekit.kernel.elf import parse
from imagekit.kernel.image import read_kernel
from imagekit.kernel.initrd import parse_initrd
from imagekit.kernel.kconfig import parse_config
from imagekit.kernel.xen_notes import read as read_notes

from .. import mutate
from ..target import Target

UNPACKED = 4 << 20
"""Bytes that a fuzzed file may unpack to; the limits of imagekit are larger."""

_NOTES = b"".join(
    (
        maker.note(maker.XEN_VERSION, b"xen-3.0\0"),
        maker.note(maker.GUEST_OS, b"linux\0"),
        maker.note(maker.LOADER, b"generic\0"),
        maker.note(maker.ENTRY, maker.number(0xFFFFFFFF81000000)),
        maker.note(maker.VIRT_BASE, maker.number(0xFFFFFFFF80000000)),
        maker.note(maker.FEATURES, b"!writable_page_tables|pae_pgdir_above_4gb\0"),
        maker.note(maker.SUPPORTED_FEATURES, maker.number(0x8801, 4)),
        maker.note(maker.PHYS32_ENTRY, maker.number(0x1000000)),
        maker.note(1, b"\1\2\3\4", b"GNU\0"),
    )
)
_BANNER = (
    b"Linux version 6.1.0-test (x@y) Blkfront and the Xen platform PCI device\0xen-platform-pci"
)
_GUEST = b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0xC0000000,FEATURES=!pae_pgdir,LOADER=generic\0"


def _elves() -> list[bytes]:
    return [
        maker.elf(_NOTES, blob=_BANNER),
        maker.elf(_NOTES, bits=32, blob=_BANNER),
        maker.elf(_NOTES, note_in_section=True, blob=_BANNER),
        maker.elf(xen_guest=_GUEST),
        maker.elf(xen_guest=_GUEST, bits=32),
    ]


_ELF64 = mutate.fields(
    "<",
    *((4, 1), (5, 1), (18, 2), (32, 8), (40, 8), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)),
    *((64, 4), (72, 8), (96, 8), (120, 4), (124, 4), (128, 4), (140, 4), (144, 4), (148, 4)),
)
_ELF32 = mutate.fields(
    "<",
    *((4, 1), (5, 1), (18, 2), (28, 4), (32, 4), (42, 2), (44, 2), (46, 2), (48, 2), (50, 2)),
    *((52, 4), (56, 4), (68, 4), (84, 4), (88, 4), (92, 4), (104, 4), (108, 4), (112, 4)),
)


def mutate_elf(source: random.Random, data: bytes) -> bytes:
    """Headers, notes and section headers, wherever the file says these are."""
    wide = data[4:5] != b"\1"
    if len(data) > 80 and source.random() < 0.3:
        (start,) = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)
        places = (0, 4, 24, 32) if wide else (0, 4, 16, 20)
        section = start + source.randrange(5) * (64 if wide else 40)
        if section < len(data):
            size = 4 if not wide else 8
            found = [mutate.Field(section + p, 4 if p < 8 else size) for p in places]
            return mutate.binary(source, data, found)
    return mutate.binary(source, data, _ELF64 if wide else _ELF32)


def _parse_elf(data: bytes) -> bool:
    read_notes(parse(data, where="fuzz"))
    return True


def unpack(data: bytes, most: int = 1 << 20) -> tuple[str, bytes] | None:
    """Codec and content of a stream that can be packed again fast, None for others."""
    with suppress(zlib.error, zstandard.ZstdError, lz4.block.LZ4BlockError, struct.error):
        if data.startswith(b"\x1f\x8b"):
            return "gzip", zlib.decompressobj(31).decompress(data, most)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            made = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()
            return "zstd", made.decompress(data)
        if data.startswith(b"\x02\x21\x4c\x18"):
            (size,) = struct.unpack_from("<I", data, 4)
            block = data[8 : 8 + size]
            return "lz4", lz4.block.decompress(block, uncompressed_size=most)
    return None


_ZSTD = zstandard.ZstdCompressor(level=1)


def _gzip(data: bytes) -> bytes:
    made = zlib.compressobj(1, zlib.DEFLATED, 31)
    return made.compress(data) + made.flush()


PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "zstd": _ZSTD.compress,
    "lz4": maker.lz4_legacy,
}


def mutate_packed(
    source: random.Random, data: bytes, inner: Callable[[random.Random, bytes], bytes]
) -> bytes:
    """Change what is packed by ``inner`` and pack it again, or sometimes the packed bytes."""
    found = unpack(data) if source.random() < 0.85 else None
    if found is None:
        return mutate.binary(source, data)
    codec, content = found
    return PACK[codec](inner(source, content))


_SETUP = mutate.fields(
    "<",
    *((0x1F1, 1), (0x206, 2), (0x20E, 2), (0x236, 2), (0x248, 4), (0x24C, 4), (0x202, 4)),
    *((0x1FE, 2), (0x500, 8)),
)


def _kernels() -> list[bytes]:
    elf = _elves()[0]
    return [
        *(maker.bzimage(elf, codec) for codec in (None, *maker.COMPRESS)),
        maker.bzimage(_elves()[3], "gzip", protocol=0x0208, wide=False),
        maker.bzimage(elf, "gzip", protocol=0x0206),
        *_elves(),
        _gzip(elf),
    ]


def _mutate_kernel(source: random.Random, data: bytes) -> bytes:
    if data[:4] == b"\x7fELF":
        return mutate_elf(source, data)
    if data[:2] == b"\x1f\x8b":
        return mutate_packed(source, data, mutate_elf)
    if len(data) < 0x250 or source.random() < 0.4:
        return mutate.binary(source, data, _SETUP)
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if payload[:4] == b"\x7fELF":
        changed = mutate_elf(source, payload)
    else:
        found = unpack(payload)
        changed = mutate_packed(source, payload, mutate_elf)
        if found is not None and found[0] != "gzip":
            changed += struct.pack("<I", len(found[1]))
    head = bytearray(data[:start])
    struct.pack_into("<I", head, 0x24C, len(changed))
    return bytes(head) + changed + data[start + length :]


def _parse_kernel(data: bytes) -> bool:
    image = read_kernel(data, name="fuzz", limit=UNPACKED)
    judge(image)
    # Old protocols do not say where the payload is: nothing lies deeper.
    return image.elf is not None or (image.protocol or 0xFFFF) < 0x0208


def _streams() -> list[bytes]:
    content = maker.cpio([("init", b"#!/bin/sh\n" * 20), ("etc/x", b"a")])
    return [
        *(pack(content) for pack in maker.COMPRESS.values()),
        *(PACK[name](bytes(UNPACKED // 2)) for name in ("gzip", "zstd")),
        bz2.compress(bytes(1 << 20), 1),
        lzma.compress(bytes(1 << 20), preset=0),
    ]


def _parse_stream(data: bytes) -> bool:
    codec = codecs.detect(data)
    if codec is None or codec == "lzo":
        return False
    total = 0
    try:
        for piece in codecs.Stream(data, codec, where="fuzz", limit=UNPACKED):
            total += len(piece)
    except ImagekitError:
        return total > 0
    return True


def _lzop() -> list[bytes]:
    content = b"".join(b"%d is a number\n" % n for n in range(300)) + bytes(2000)
    return [maker.lzop(content), maker.lzop(random.Random(1).randbytes(50))]


_LZOP = mutate.fields(">", (9, 2), (16, 4), (17, 4), (34, 1), (38, 4), (42, 4), (46, 4), (59, 4))


def _parse_lzop(data: bytes) -> bool:
    if codecs.detect(data) != "lzo":
        return False
    for _ in codecs.Stream(data, "lzo", where="fuzz", limit=UNPACKED):
        pass
    return True


_FILES: Sequence[tuple[str, bytes]] = (
    ("init", b"#!/bin/sh\n"),
    ("lib/modules/6.1.0-test/kernel/drivers/block/xen-blkfront.ko", b"\x7fELF"),
    ("usr/lib/modules/6.1.0-test/kernel/drivers/net/xen-netfront.ko.xz", b"\xfd7zXZ"),
    ("lib/modules/6.1.0-test/modules.builtin", b"kernel/fs/ext4/ext4.ko\nkernel/x.ko\n"),
    ("scripts/init-premount", b""),
)
_CPIO = (0, 1, 6, 6, 6, 11, 11, 12)
"""Which of a header's thirteen numbers are changed: inode, mode, size, length of the name, sum."""


def mutate_cpio(source: random.Random, data: bytes) -> bytes:
    """A number in a header, in its hexadecimal digits, or any byte."""
    places: list[int] = []
    at = data.find(b"07070")
    while at >= 0 and len(places) < 16:
        places.append(at)
        at = data.find(b"07070", at + 6)
    if not places or source.random() < 0.2:
        return mutate.binary(source, data)
    place = source.choice(places) + 6 + 8 * source.choice(_CPIO)
    changed = bytearray(data)
    value = source.choice((source.choice(mutate.LARGE) & 0xFFFFFFFF, source.randrange(300)))
    changed[place : place + 8] = b"%08X" % value
    if source.random() < 0.05:
        changed[place : place + 1] = source.randbytes(1)
    return bytes(changed)


def _initrds() -> list[bytes]:
    plain = maker.cpio(_FILES)
    early = maker.cpio([("kernel/x86/microcode/GenuineIntel.bin", bytes(64))])
    return [
        plain,
        early + bytes(4 + -len(early) % 512) + _gzip(plain),
        early + bytes(-len(early) % 4) + PACK["zstd"](plain),
        *(pack(plain) for pack in maker.COMPRESS.values()),
        plain + bytes(16) + plain,
        maker.cpio(_FILES, trailer=False),
    ]


def _mutate_initrd(source: random.Random, data: bytes) -> bytes:
    """A change in one of the segments, the last one most often."""
    starts = [0]
    for magic in (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"):
        at = data.find(magic, 1)
        if at > 0:
            starts.append(at)
    at = max(starts)
    if source.random() < 0.05:
        return data + source.choice((bytes(512), data[:600], b"07070100", b"\x1f\x8b\x08"))
    if at and source.random() < 0.3:
        return mutate_cpio(source, data[:at]) + data[at:]
    if data[at : at + 5] == b"07070":
        return data[:at] + mutate_cpio(source, data[at:])
    return data[:at] + mutate_packed(source, data[at:], mutate_cpio)


def _parse_initrd(data: bytes) -> bool:
    found = parse_initrd(data, name="fuzz", limit=UNPACKED)
    found.has_driver("xen-blkfront")
    return bool(found.files)


def _parse_cpio(data: bytes) -> bool:
    seen: list[CpioEntry] = []
    kept: list[bytes] = []

    def keep(entry: CpioEntry) -> bool:
        return entry.size < 100

    reader = CpioReader(seen.append, keep, lambda _, content: kept.append(content))
    step = 1 + (data[-1] if data else 0)
    with suppress(CpioError):
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
        reader.finish()
    return bool(seen)


_CONFIG = """# Linux/x86 6.1.0 Kernel Configuration
CONFIG_CC_VERSION_TEXT="gcc (Debian 12.2.0-14) 12.2.0"
CONFIG_XEN=y
CONFIG_XEN_BLKDEV_FRONTEND=m
# CONFIG_XEN_PVH is not set
CONFIG_HZ=250
"""
_CONFIG_WORDS = (
    *("CONFIG_XEN=y", "# CONFIG_XEN is not set", "=m", '"', "Kernel Configuration", "CONFIG_"),
    *("# Linux/x86", "6.1.0", "is not set"),
)


def _parse_config(data: bytes) -> bool:
    found = parse_config(data.decode("utf-8", "replace"), name="fuzz")
    return found.value("XEN") is not None or found.value("HZ") is not None


def _mutate_config(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _CONFIG_WORDS)


def _mutate_stream(source: random.Random, data: bytes) -> bytes:
    found = unpack(data, UNPACKED)
    if found is None or len(found[1]) > 1 << 16 or source.random() < 0.5:
        return mutate.binary(source, data)
    return PACK[found[0]](mutate.binary(source, found[1]))


def _mutate_lzop(source: random.Random, data: bytes) -> bytes:
    return mutate.binary(source, data, _LZOP)


TARGETS = (
    Target("kernel", _kernels, _mutate_kernel, _parse_kernel, ("not a kernel", "in its setup")),
    Target("elf", _elves, mutate_elf, _parse_elf, ("not an ELF", "neither 32 nor 64")),
    Target("decompressors", _streams, _mutate_stream, _parse_stream),
    Target("lzop", _lzop, _mutate_lzop, _parse_lzop),
    Target("initrd", _initrds, _mutate_initrd, _parse_initrd, ("not an initrd",)),
    Target("cpio", lambda: [maker.cpio(_FILES)], mutate_cpio, _parse_cpio),
    Target("kernel-config", lambda: [_CONFIG.encode()], _mutate_config, _parse_config),
)
