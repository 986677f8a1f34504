"""The little of ELF that a Xen domain builder reads: machine, notes, the ``__xen_guest`` section.

Layout: System V ABI, chapters "ELF Header", "Program Header", "Note Section". Notes are looked for
where Xen's libelf does (``xen/common/libelf/libelf-dominfo.c``): PT_NOTE segments first, then
SHT_NOTE sections.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imagekit.errors import ImageError

MAGIC = b"\x7fELF"
MACHINES = {3: "i386", 62: "x86_64", 40: "arm", 183: "arm64", 243: "riscv64", 21: "ppc64"}

_PT_NOTE = 4
_SHT_NOTE = 7
_SHT_NOBITS = 8
_MAX_NOTES = 4096
_MAX_HEADERS = 4096
_MAX_SECTION = 1 << 20
_MAX_NOTES_BYTES = 1 << 20
_MAX_GUEST_STRING = 64 << 10


@dataclass(frozen=True)
class Note:
    """One ELF note: who defined it, its type, its bytes."""

    owner: str
    type: int
    desc: bytes


@dataclass(frozen=True)
class Elf:
    """What was read of one ELF file; ``xen_guest`` is the text of the section of that name."""

    bits: int
    machine: int
    notes: tuple[Note, ...]
    xen_guest: str | None

    @property
    def arch(self) -> str:
        """Linux's name of the machine; ``unknown`` when it is none that Xen knows."""
        return MACHINES.get(self.machine, "unknown")


@dataclass(frozen=True)
class _Part:
    """A segment or section: where it is in the file, and a section's name offset."""

    type: int
    offset: int
    size: int
    name: int = 0


def parse(data: bytes, *, where: str) -> Elf:
    """Read the ELF file ``data``; raises ImageError when it is none or damaged."""
    if data[:4] != MAGIC:
        raise ImageError("this is not an ELF file", where=where)
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ImageError(
            f"the ELF headers are damaged: {error}",
            where=where,
            hint="the file is cut off or not a kernel; get it again",
        ) from error


def _parse(data: bytes) -> Elf:
    if data[4] not in (1, 2) or data[5] != 1:
        raise ValueError("neither 32 nor 64 bit little endian")
    bits = 32 * data[4]
    (machine,) = struct.unpack_from("<H", data, 18)
    segments, sections, names_index = _headers(data, bits)
    notes = _notes_of(data, [part for part in segments if part.type == _PT_NOTE])
    if not any(note.owner == "Xen" for note in notes):
        notes += _notes_of(data, [part for part in sections if part.type == _SHT_NOTE])
    return Elf(bits, machine, tuple(notes), _xen_guest(data, sections, names_index))


def _headers(data: bytes, bits: int) -> tuple[list[_Part], list[_Part], int]:
    """Program headers, section headers, index of the section of names."""
    if bits == 64:
        phoff, shoff = struct.unpack_from("<QQ", data, 32)
        phsize, phcount, shsize, shcount, names = struct.unpack_from("<HHHHH", data, 54)
    else:
        phoff, shoff = struct.unpack_from("<II", data, 28)
        phsize, phcount, shsize, shcount, names = struct.unpack_from("<HHHHH", data, 42)
    if phcount > _MAX_HEADERS or shcount > _MAX_HEADERS:
        raise ValueError("too many segments or sections")
    segments = []
    for index in range(phcount):
        at = phoff + index * phsize
        if bits == 64:
            kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, offset, _, _, size = struct.unpack_from("<IIIII", data, at)
        segments.append(_Part(kind, offset, size))
    return segments, _sections(data, bits, shoff, shsize, shcount), names


def _sections(data: bytes, bits: int, shoff: int, shsize: int, shcount: int) -> list[_Part]:
    """Section headers; none when the table was cut off, for stripping may leave its offset."""
    sections = []
    if shoff + shsize * shcount > len(data):
        return []
    for index in range(shcount):
        at = shoff + index * shsize
        if bits == 64:
            name, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", data, at)
        else:
            name, kind, _, _, offset, size = struct.unpack_from("<IIIIII", data, at)
        sections.append(_Part(kind, offset, size, name))
    return sections


def _notes_of(data: bytes, parts: list[_Part]) -> list[Note]:
    """The notes of all ``parts``, which may overlap: the limits are for all of them together."""
    notes: list[Note] = []
    seen = size = 0
    for part in parts:
        for note in _walk_notes(data, part.offset, min(part.offset + part.size, len(data))):
            seen += 1
            if seen > _MAX_NOTES:
                raise ValueError("too many notes")
            if note is not None:
                notes.append(note)
                size += len(note.desc)
                if size > _MAX_NOTES_BYTES:
                    raise ValueError("the notes hold more than 1 MiB")
    return notes


def _walk_notes(data: bytes, position: int, end: int) -> Iterator[Note | None]:
    """Notes in ``data[position:end]``: name and description are each padded to 4 bytes.

    None stands for a note that is too large to be one of Xen's.
    """
    while position + 12 <= end:
        name_size, desc_size, kind = struct.unpack_from("<III", data, position)
        name_at = position + 12
        desc_at = name_at + (name_size + 3 & ~3)
        position = desc_at + (desc_size + 3 & ~3)
        if desc_at + desc_size > end:
            return
        if name_size <= 32 and desc_size <= _MAX_SECTION:
            owner = data[name_at : name_at + name_size].rstrip(b"\0").decode("latin-1")
            yield Note(owner, kind, data[desc_at : desc_at + desc_size])
        else:
            yield None


def _xen_guest(data: bytes, sections: list[_Part], names_index: int) -> str | None:
    if names_index >= len(sections):
        return None
    names = sections[names_index]
    for section in sections:
        at = names.offset + section.name
        if section.type != _SHT_NOBITS and data[at : at + 12] == b"__xen_guest\0":
            text = data[section.offset : section.offset + min(section.size, _MAX_GUEST_STRING)]
            return text.split(b"\0", 1)[0].decode("latin-1")
    return None
