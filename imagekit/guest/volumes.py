"""Where the logical volumes of a physical volume lie: LVM2's metadata, read from a disk.

Only what is one stretch of one disk is of use here, which is what installers and imagekit make.
Sources, all of LVM2: lib/label/label.h, lib/format_text/layout.h (label, headers),
lib/format_text/import_vsn1.c (the text), lib/misc/crc.c. :mod:`imagekit.disk.lvm` writes the same.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from imagekit.guest.signatures import ReadBytes

SECTOR = 512
_AREA_MAGIC = b" LVM2 x[5A%r0N*>"  # FMTT_MAGIC
_AREA_HEADER = 512  # MDA_HEADER_SIZE
_CRC_SEED = 0xF597A6CF  # INITIAL_CRC
_MOST_TEXT = 1 << 20
_DEEPEST = 8

Value: TypeAlias = "str | int | list[Value] | Section"
Section: TypeAlias = "dict[str, Value]"

_TOKEN = re.compile(r'\s+|#[^\n]*|([{}\[\]=,])|"((?:[^"\\]|\\.)*)"|([A-Za-z0-9_.+-]+)')


class UnknownVolumes(Exception):
    """Metadata that is damaged, or of a kind not read here."""


@dataclass(frozen=True)
class Volume:
    """A logical volume in one piece: ``start`` counts from the physical volume's, in bytes."""

    group: str
    name: str
    start: int
    size: int


def volumes_of(read: ReadBytes) -> list[Volume]:
    """The volumes of the group on the physical volume that ``read`` reads.

    Raises UnknownVolumes when the group has more than this physical volume, or a volume that is
    not one stretch.
    """
    try:
        return _volumes(parsed(_text(read)))
    except (struct.error, LookupError, ValueError, TypeError, RecursionError) as error:
        raise UnknownVolumes(f"LVM metadata that is not understood: {error}") from None


def _text(read: ReadBytes) -> str:
    """The metadata in the first area of the physical volume, its checksums found right."""
    for number in range(4):
        sector = read(number * SECTOR, SECTOR)
        if sector[:8] == b"LABELONE":
            break
    else:
        raise UnknownVolumes("no label of a physical volume")
    (summed,) = struct.unpack_from("<I", sector, 16)
    if _checksum(sector[20:]) != summed:
        raise UnknownVolumes("the checksum of its label")
    (at,) = struct.unpack_from("<I", sector, 20)
    at += 40  # the identifier and the size, in front of the lists of areas
    while struct.unpack_from("<QQ", sector, at) != (0, 0):
        at += 16
    area, area_size = struct.unpack_from("<QQ", sector, at + 16)
    if struct.unpack_from("<QQ", sector, at + 32) != (0, 0):
        raise UnknownVolumes("it has its metadata twice")
    header = read(area, _AREA_HEADER)
    (summed,) = struct.unpack_from("<I", header, 0)
    if header[4:20] != _AREA_MAGIC or _checksum(header[4:]) != summed:
        raise UnknownVolumes("the header of its metadata")
    offset, length, summed, flags = struct.unpack_from("<QQII", header, 40)
    if flags or not 0 < length <= _MOST_TEXT or offset < _AREA_HEADER:
        raise UnknownVolumes("where its metadata is")
    if offset + length > area_size:
        raise UnknownVolumes("its metadata goes round the end of its area")
    text = read(area + offset, length)
    if _checksum(text) != summed:
        raise UnknownVolumes("the checksum of its metadata")
    return text.rstrip(b"\0").decode()


def parsed(text: str) -> Section:
    """The tree of sections and values of LVM2's configuration syntax (lvm.conf(5))."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UnknownVolumes(f"LVM metadata at {text[position : position + 20]!r}")
        if match[1]:
            tokens.append((match[1], ""))
        elif match[2] is not None:
            tokens.append(('"', re.sub(r"\\(.)", r"\1", match[2])))
        elif match[3]:
            tokens.append(("word", match[3]))
        position = match.end()
    tokens.reverse()
    section = _section(tokens, 0)
    if tokens:
        raise UnknownVolumes("LVM metadata with a bracket too many")
    return section


def _section(tokens: list[tuple[str, str]], depth: int) -> Section:
    if depth > _DEEPEST:
        raise UnknownVolumes("LVM metadata with sections too deep")
    found: Section = {}
    while tokens and tokens[-1][0] == "word":
        name = tokens.pop()[1]
        mark = tokens.pop()[0]
        if mark == "{":
            found[name] = _section(tokens, depth + 1)
            _expect(tokens, "}")
        elif mark == "=":
            found[name] = _value(tokens)
        else:
            raise UnknownVolumes(f"LVM metadata with {mark} after {name}")
    return found


def _value(tokens: list[tuple[str, str]]) -> Value:
    kind, text = tokens.pop()
    if kind == "word":
        return int(text)
    if kind == '"':
        return text
    if kind != "[":
        raise UnknownVolumes(f"LVM metadata with {kind} for a value")
    found: list[Value] = []
    while tokens[-1][0] != "]":
        if tokens[-1][0] == ",":
            tokens.pop()
        found.append(_value(tokens))
    tokens.pop()
    return found


def _expect(tokens: list[tuple[str, str]], mark: str) -> None:
    if not tokens or tokens.pop()[0] != mark:
        raise UnknownVolumes(f"LVM metadata without {mark}")


def _volumes(metadata: Section) -> list[Volume]:
    groups = {name: part for name, part in metadata.items() if isinstance(part, dict)}
    ((group, content),) = groups.items()
    extent = _number(content, "extent_size") * SECTOR
    ((device, physical),) = _sections(content, "physical_volumes").items()
    first = _number(physical, "pe_start") * SECTOR
    if extent <= 0 or first <= 0 or content.get("format", "lvm2") != "lvm2":
        raise UnknownVolumes("its group")
    found = []
    for name, volume in _sections(content, "logical_volumes").items():
        (segment,) = (part for part in volume.values() if isinstance(part, dict))
        if _number(volume, "segment_count") != 1:
            raise UnknownVolumes(f"{name} is in pieces")
        stripes = segment.get("stripes")
        plain = segment.get("type") == "striped" and segment.get("stripe_count") == 1
        if not plain or not isinstance(stripes, list) or stripes[:1] != [device]:
            raise UnknownVolumes(f"{name} is not linear")
        (_device, at) = stripes
        if not isinstance(at, int) or at < 0 or _number(segment, "start_extent") != 0:
            raise UnknownVolumes(f"where {name} is")
        size = _number(segment, "extent_count") * extent
        if size <= 0 or "VISIBLE" not in str(volume.get("status")):
            raise UnknownVolumes(f"{name} is no plain volume")
        found.append(Volume(group, name, first + at * extent, size))
    return found


def _sections(section: Section, name: str) -> Mapping[str, Section]:
    part = section.get(name, {})
    if not isinstance(part, dict):
        raise UnknownVolumes(name)
    return {key: value for key, value in part.items() if isinstance(value, dict)}


def _number(section: Section, name: str) -> int:
    value = section[name]
    if not isinstance(value, int):
        raise UnknownVolumes(name)
    return value


def _checksum(data: bytes) -> int:
    """calc_crc() with INITIAL_CRC: zlib's CRC-32, inverted before and after."""
    return zlib.crc32(data, _CRC_SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
