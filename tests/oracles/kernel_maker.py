"""Makes tiny kernels and initrds from their published formats, knowing nothing of imagekit.

bzImage: Linux ``Documentation/arch/x86/boot.rst``; ELF and notes: System V ABI; note numbers: Xen
``public/elfnote.h``; cpio: Linux ``buffer-format.rst``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence

import lz4.block
import zstandard

ENTRY, VIRT_BASE, XEN_VERSION, GUEST_OS, LOADER, FEATURES = 1, 3, 5, 6, 8, 10
SUPPORTED_FEATURES, PHYS32_ENTRY = 17, 18


def note(kind: int, desc: bytes, owner: bytes = b"Xen\0") -> bytes:
    """One ELF note, name and description padded to four bytes."""
    head = struct.pack("<III", len(owner), len(desc), kind)
    return head + owner + bytes(-len(owner) % 4) + desc + bytes(-len(desc) % 4)


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def elf(
    notes: bytes = b"",
    *,
    bits: int = 64,
    blob: bytes = b"",
    xen_guest: bytes | None = None,
    note_in_section: bool = False,
) -> bytes:
    """An ELF file: headers, notes (segment, or section only), ``blob``, maybe ``__xen_guest``."""
    wide = bits == 64
    header_size, ph_size, sh_size = (64, 56, 64) if wide else (52, 32, 40)
    segments = [] if note_in_section or not notes else [notes]
    body_at = header_size + ph_size * len(segments)
    names = b"\0.note\0__xen_guest\0.shstrtab\0"
    parts: list[tuple[int, int, bytes]] = [(0, 0, b"")]
    if note_in_section:
        parts.append((1, 7, notes))
    if xen_guest is not None:
        parts.append((7, 1, xen_guest))
    parts.append((19, 3, names))
    body = bytearray(notes if segments else b"")
    sections = b""
    for name, kind, data in parts:
        offset = body_at + len(body)
        body += data
        if wide:
            sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, len(data), 0, 0, 4, 0)
        else:
            sections += struct.pack("<10I", name, kind, 0, 0, offset, len(data), 0, 0, 4, 0)
    body += blob
    sh_at = body_at + len(body)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    shape = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    header = ident + struct.pack(
        shape,
        *(2, 62 if wide else 3, 1, 0, header_size if segments else 0, sh_at, 0, header_size),
        *(ph_size, len(segments), sh_size, len(parts), len(parts) - 1),
    )
    program = b""
    for data in segments:
        if wide:
            program += struct.pack("<IIQQQQQQ", 4, 4, body_at, 0, 0, len(data), len(data), 4)
        else:
            program += struct.pack("<8I", 4, body_at, 0, 0, len(data), len(data), 4, 4)
    return header + program + bytes(body) + sections


def lz4_legacy(data: bytes) -> bytes:
    """The legacy frame that ``lz4 -l`` writes."""
    out = bytearray(b"\x02\x21\x4c\x18")
    for at in range(0, max(len(data), 1), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return bytes(out)


def lzop(data: bytes) -> bytes:
    return subprocess.run(["lzop", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4": lz4_legacy,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
"""Every codec but lzo, which needs a program."""


def bzimage(
    payload: bytes,
    codec: str | None = "gzip",
    *,
    release: str = "6.1.0-test",
    protocol: int = 0x020F,
    wide: bool = True,
    setup_sectors: int = 4,
    compress: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """A bzImage around ``payload``: setup header, a little code, the payload and its size field."""
    packer = compress or (COMPRESS[codec] if codec else bytes)
    packed = packer(payload)
    if codec not in (None, "gzip"):
        packed += struct.pack("<I", len(payload))
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    version = release.encode() + b" (builder) #1 SMP\0"
    struct.pack_into("<H", setup, 0x20E, 0x300)
    setup[0x500 : 0x500 + len(version)] = version
    struct.pack_into("<H", setup, 0x236, 1 if wide else 0)
    code = b"\x90" * 96
    struct.pack_into("<II", setup, 0x248, len(code), len(packed))
    return bytes(setup) + code + packed + bytes(40)


def cpio(files: Sequence[tuple[str, bytes]], *, trailer: bool = True) -> bytes:
    """A newc archive of regular files."""
    out = bytearray()
    members = [*((name, data, 0o100644) for name, data in files)]
    if trailer:
        members.append(("TRAILER!!!", b"", 0))
    for inode, (name, data, mode) in enumerate(members):
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return bytes(out)
