"""A kernel file: bzImage or ELF, and the ELF image inside it.

Formats: Linux ``Documentation/arch/x86/boot.rst`` (the setup header); Xen
``tools/libs/guest/xg_dom_bzimageloader.c`` (what of it Xen reads).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.errors import ImageError, ImagekitError, SpecError
from imagekit.kernel import elf as elf_format
from imagekit.kernel.codecs import DEFAULT_LIMIT, Codec, Stream, decompress, detect

Container = Literal["bzImage", "ELF"]

MAX_FILE = 512 << 20
"""Largest kernel file read, in bytes."""
_PIECE = 16 << 20

_FIRST_PAYLOAD_PROTOCOL = 0x0208
_BANNER = re.compile(rb"Linux version ([0-9][\x21-\x7e]{0,127}) ")


@dataclass(frozen=True)
class KernelImage:
    """One kernel.

    ``compression`` is the codec of the payload, None when it is stored plain. ``payload`` is the
    unpacked ELF and ``elf`` its headers; when it could not be had both are None and
    ``payload_error`` says why. ``protocol`` is the bzImage boot protocol (0x020f is 2.15).
    """

    name: str
    container: Container
    arch: str
    release: str | None
    compression: Codec | None
    payload: bytes | None = field(repr=False)
    elf: elf_format.Elf | None = field(repr=False)
    payload_error: str | None = None
    protocol: int | None = None

    def contains(self, text: bytes) -> bool:
        """Whether the unpacked ELF holds these bytes; false when there is none."""
        return self.payload is not None and text in self.payload


def load_kernel(path: Path) -> KernelImage:
    """Read the kernel file ``path``; raises SpecError when it cannot be read, ImageError."""
    return read_kernel(read_file(path, MAX_FILE, "kernel"), name=str(path))


def read_file(path: Path, limit: int, kind: str) -> bytes:
    """All of ``path``, a regular file of at most ``limit`` bytes; raises SpecError, ImageError."""
    with opened_file(path, kind) as fd:
        return read_open(fd, limit, kind, str(path))


@contextlib.contextmanager
def opened_file(path: Path, kind: str) -> Iterator[int]:
    """A descriptor for reading of ``path``, a regular file; raises SpecError."""
    absent = SpecError(f"there is no {kind} file here", where=str(path), hint="check the path")
    try:
        # Without O_NONBLOCK the opening of a FIFO waits for somebody who writes.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise absent from None
    except OSError as error:
        raise SpecError(
            f"cannot read the {kind}: {error.strerror}", where=str(path), hint="check the path"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise absent
        yield fd
    finally:
        os.close(fd)


def read_open(fd: int, limit: int, kind: str, where: str) -> bytes:
    """All of the open regular file ``fd``, at most ``limit`` bytes; raises ImageError."""
    pieces, size = [], 0
    while piece := os.pread(fd, min(_PIECE, limit + 1 - size), size):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise ImageError(f"the {kind} is larger than {limit >> 20} MiB", where=where)
    return b"".join(pieces)


def read_kernel(data: bytes, *, name: str, limit: int = DEFAULT_LIMIT) -> KernelImage:
    """The kernel in ``data``; ``name`` is used in messages, ``limit`` bounds the unpacked bytes.

    A payload that cannot be unpacked is recorded, not raised. Raises ImageError when ``data`` is
    no x86 bzImage and no ELF (also inside gzip, as Xen accepts it), and when a bzImage is cut off.
    """
    if data[0x202:0x206] == b"HdrS" and data[0x1FE:0x200] == b"\x55\xaa":
        return _read_bzimage(data, name, limit)
    if data[:4] == elf_format.MAGIC:
        return _from_elf(data, name, None)
    if data[:2] == b"\x1f\x8b":
        unpacked = decompress(data, "gzip", where=name, limit=limit)
        if unpacked[:4] == elf_format.MAGIC:
            return _from_elf(unpacked, name, "gzip")
    raise ImageError(
        f"not a kernel that Xen can load on x86: {_other_kind(data)}",
        where=name,
        hint="give a bzImage (vmlinuz) or an ELF vmlinux",
    )


def _other_kind(data: bytes) -> str:
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return "it is an EFI zboot image (arm64, riscv, loongarch)"
    if data[0x38:0x3C] == b"ARM\x64":
        return "it is an arm64 Image"
    if data[:2] == b"MZ" and b".linux\0\0" in data[:4096]:
        return "it is a unified kernel image; the kernel is its section .linux"
    if data[:2] == b"MZ":
        return "it is a PE program without a Linux kernel"
    return "empty file" if not data else "neither a bzImage nor an ELF header is in it"


def _from_elf(data: bytes, name: str, compression: Codec | None) -> KernelImage:
    headers = elf_format.parse(data, where=name)
    return KernelImage(name, "ELF", headers.arch, _banner_release(data), compression, data, headers)


def _banner_release(payload: bytes) -> str | None:
    found = _BANNER.search(payload)
    return found.group(1).decode("ascii") if found else None


def _read_bzimage(data: bytes, name: str, limit: int) -> KernelImage:
    try:
        setup_sectors = data[0x1F1] or 4
        (protocol,) = struct.unpack_from("<H", data, 0x206)
        (version_pointer,) = struct.unpack_from("<H", data, 0x20E)
        (load_flags,) = struct.unpack_from("<H", data, 0x236)
        offset, length = struct.unpack_from("<II", data, 0x248)
    except (struct.error, IndexError):
        raise ImageError("the bzImage is cut off in its setup header", where=name) from None
    codec: Codec | None = None
    payload = headers = reason = None
    if protocol < _FIRST_PAYLOAD_PROTOCOL:
        reason = f"boot protocol {protocol >> 8}.{protocol & 0xFF:02} has no payload fields (2.08)"
    else:
        start = (setup_sectors + 1) * 512 + offset
        if start + length > len(data):
            raise ImageError(
                f"the bzImage is cut off: it has {len(data)} bytes, and its header asks for at "
                f"least {start + length}",
                where=name,
                hint="copy or download it again",
            )
        codec, payload, reason = _unpack(data, start, length, name, limit)
    if payload is not None:
        try:
            headers = elf_format.parse(payload, where=name)
        except ImageError as error:
            payload, reason = None, f"the payload: {error.what}"
    arch = headers.arch if headers else _arch_of_flags(protocol, load_flags)
    release = _setup_release(data, version_pointer) or _banner_release(payload or b"")
    return KernelImage(name, "bzImage", arch, release, codec, payload, headers, reason, protocol)


def _arch_of_flags(protocol: int, load_flags: int) -> str:
    """XLF_KERNEL_64 exists since protocol 2.12."""
    if protocol < 0x020C:
        return "unknown"
    return "x86_64" if load_flags & 1 else "i386"


def _setup_release(data: bytes, pointer: int) -> str | None:
    """First word of the version string at ``pointer`` + 0x200 ("6.1.0-56-amd64 (builder) ...")."""
    if not pointer:
        return None
    text = data[pointer + 0x200 : pointer + 0x200 + 256].split(b"\0", 1)[0]
    word = text.split(b" ", 1)[0].decode("ascii", "replace")
    return word if word[:1].isdigit() and word.isprintable() else None


def _unpack(
    data: bytes, start: int, length: int, name: str, limit: int
) -> tuple[Codec | None, bytes | None, str | None]:
    """Codec, unpacked payload, or the reason why there is none."""
    if length < 4:
        return None, None, f"the header names a payload of {length} bytes"
    if data[start : start + 4] == elf_format.MAGIC:
        return None, data[start : start + length], None
    codec = detect(data, start)
    if codec is None:
        return None, None, f"unknown compression (magic {data[start : start + 6].hex(' ')})"
    # The kernel build appends the unpacked size to all but gzip; only lz4 has no end mark.
    stop = start + length - (4 if codec == "lz4" else 0)
    try:
        stream = Stream(data, codec, where=name, start=start, stop=stop, limit=limit)
        return codec, b"".join(stream), None
    except ImagekitError as error:
        hint = f" ({error.hint})" if error.kind == "host" and error.hint else ""
        return codec, None, f"{error.what}{hint}"
