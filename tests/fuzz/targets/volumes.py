"""LVM2's metadata, in the label and headers of a physical volume that are right."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path

from imagekit.disk.layout import Ids
from imagekit.disk.lvm import LogicalVolume, VolumeGroup, _area_header, write_group
from imagekit.guest.volumes import UnknownVolumes, volumes_of

from .. import mutate
from ..target import Target

_TEXT_AT = 4096 + 512
_WORDS = (
    *("{", "}", "[", "]", "=", ",", '"', "#", "\\", "pv0", '"pv0"', "vg0", "segment1", "stripes"),
    *("extent_count", "start_extent", "extent_size", "pe_start", "status", '"VISIBLE"', "type"),
    *("0", "-1", "1", "8192", "99999999999999999999", '"striped"', '"thin"', "id", "= 1", "= ["),
)


@cache
def _volume() -> bytes:
    ids = Ids("fuzz")
    volumes = tuple(LogicalVolume(name, ids.lvm(), 7) for name in ("swap", "root", "data"))
    group = VolumeGroup("vg0", ids.lvm(), ids.lvm(), "/dev/xvda2", 100 << 20, 1, volumes)
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "volume")
        image.write_bytes(bytes(1 << 20))
        write_group(group, image, 0)
        return image.read_bytes()


def _texts() -> list[bytes]:
    return [_volume()[_TEXT_AT:].partition(b"\0")[0]]


def _mutate(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _WORDS)


def _parse(data: bytes) -> bool:
    text = data + b"\0"
    disk = _volume()[:4096] + _area_header(text) + text
    for volume in volumes_of(lambda at, count: disk[at : at + count]):
        assert volume.start > 0
        assert volume.size > 0
    return True


TARGETS = (Target("lvm", _texts, _mutate, _parse, ("LVM metadata",), (UnknownVolumes,)),)
