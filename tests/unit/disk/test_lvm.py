"""Volume groups as we write them are what LVM2's pvck reads; it looks at plain files too."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.lvm_tools import LvmTools

from imagekit.disk.layout import Ids
from imagekit.disk.lvm import (
    DATA_START,
    EXTENT,
    IDENTIFIER_BITS,
    LogicalVolume,
    VolumeGroup,
    dashed,
    extents_of,
    identifier,
    write_group,
)
from imagekit.errors import SpecError

MIB = 1 << 20
NAMES = st.from_regex(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,40}", fullmatch=True).filter(
    lambda name: name not in (".", "..")
)
VOLUMES = st.from_regex(r"[a-z0-9+.][a-zA-Z0-9+.-]{0,20}", fullmatch=True).filter(
    lambda name: name not in (".", "..") and not name.startswith(("snapshot", "pvmove"))
)


@st.composite
def groups(draw: st.DrawFn) -> VolumeGroup:
    names = draw(st.lists(VOLUMES, unique=True, max_size=5))
    sizes = [draw(st.integers(1, 1 << 20)) for _ in names]
    ids = Ids(str(draw(st.integers())))
    spare = draw(st.integers(0, 1 << 21)) * 512
    return VolumeGroup(
        draw(NAMES),
        ids.lvm(),
        ids.lvm(),
        "/dev/xvda4",
        DATA_START + max(sum(sizes), 1) * EXTENT + spare,
        draw(st.integers(0, 1 << 33)),
        tuple(LogicalVolume(n, ids.lvm(), s) for n, s in zip(names, sizes, strict=True)),
    )


def group(*volumes: LogicalVolume, name: str = "vg0", size: int = 256 * MIB) -> VolumeGroup:
    ids = Ids("seed")
    return VolumeGroup(name, ids.lvm(), ids.lvm(), "/dev/xvda4", size, 1700000000, volumes)


def volume(name: str, extents: int = 1) -> LogicalVolume:
    return LogicalVolume(name, "a" * 32, extents)


def image_of(wanted: VolumeGroup, path: Path, start: int = 0) -> Path:
    with path.open("xb") as stream:
        stream.truncate(start + wanted.device_bytes)
    write_group(wanted, path, start)
    return path


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@settings(max_examples=25, deadline=None)
@given(groups())
def test_pvck_finds_headers_and_metadata_sound_and_as_they_were_meant(wanted: VolumeGroup) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        lvm = LvmTools(place / "lvm", image_of(wanted, place / "pv.img"))
        found = lvm.headers()
        assert lvm.metadata() == wanted.text()
    assert found["pv_header.pv_uuid"] == wanted.physical_uuid
    assert int(found["pv_header.device_size"]) == wanted.device_bytes
    assert found["pv_header.disk_locn[0].offset"] == str(DATA_START)
    assert found["mda_header_1.raw_locn[0].size"] == str(len(wanted.text()) + 1)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (512 + 40, "label_header.crc"),
        (4096 + 20, "mda_header_1.checksum"),
        (4096 + 512 + 9, "metadata text at 4608 crc"),
    ],
)
def test_pvck_says_if_a_checksum_is_wrong(scratch: Path, place: int, said: str) -> None:
    path = image_of(group(volume("root", 8), size=48 * MIB), scratch / "pv.img")
    lvm = LvmTools(scratch / "lvm", path)
    assert lvm.headers()
    with path.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(AssertionError, match=re.escape(said)):
        lvm.headers()


@given(groups())
def test_volumes_lie_one_behind_the_other_inside_the_physical_volume(wanted: VolumeGroup) -> None:
    position = DATA_START
    for each in wanted.volumes:
        assert wanted.start(each.name) == position
        position += each.size
    assert position <= wanted.device_bytes
    assert extents_of(wanted.device_bytes) == (wanted.device_bytes - MIB) // (4 * MIB)


@given(st.integers(0, (1 << IDENTIFIER_BITS) - 1), st.integers(0, (1 << IDENTIFIER_BITS) - 1))
def test_identifiers_are_32_characters_and_differ_as_their_numbers_do(one: int, other: int) -> None:
    plain = identifier(one)
    assert re.fullmatch(r"[0-9a-zA-Z]{32}", plain)
    assert re.fullmatch(r"\w{6}-(\w{4}-){5}\w{6}", dashed(plain))
    assert dashed(plain).replace("-", "") == plain
    assert (plain == identifier(other)) == (one == other)


def test_identifiers_follow_from_the_seed() -> None:
    assert Ids("a").lvm() == Ids("a").lvm()
    assert len({Ids("a").lvm(), Ids("b").lvm(), Ids(None).lvm(), Ids(None).lvm()}) == 4


def test_nothing_outside_of_label_and_metadata_is_written(scratch: Path) -> None:
    wanted = group(volume("root", 8), size=48 * MIB)
    path = image_of(wanted, scratch / "disk.img", 3 * MIB)
    content = path.read_bytes()
    sector, area = 3 * MIB + 512, 3 * MIB + 4096
    end = area + 512 + len(wanted.text())
    assert content[sector : sector + 8] == b"LABELONE"
    assert not content[:sector].strip(b"\0")
    assert not content[sector + 512 : area].strip(b"\0")
    assert not content[end:].strip(b"\0")
    assert path.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    ("name", "volumes"),
    [
        ("-vg", []),
        ("..", []),
        ("v g", []),
        ("vg{", []),
        ("a" * 128, []),
        ("a" * 121, ["root"]),
        ("a-" * 60, ["root"]),
        ("vg0", ["root", "root"]),
        ("vg0", ["snapshot1"]),
        ("vg0", ["root_rimage"]),
        ("vg0", ["."]),
        ("vg0", ['root"']),
        ("vg0", ["root\n"]),
    ],
)
def test_names_that_lvm_refuses_are_refused(name: str, volumes: list[str]) -> None:
    with pytest.raises(SpecError):
        group(*(volume(each) for each in volumes), name=name)


@pytest.mark.parametrize("extents", [[64], [32, 32], [0], [-1, 2]])
def test_volumes_that_do_not_fit_are_refused(extents: list[int]) -> None:
    group(volume("v0", 63))
    with pytest.raises(SpecError, match="has 63"):
        group(*(volume(f"v{i}", size) for i, size in enumerate(extents)))


def test_metadata_beyond_what_lvm_keeps_is_refused(scratch: Path) -> None:
    many = [volume(f"{'v' * 100}{i}") for i in range(1600)]
    wanted = group(*many, size=DATA_START + 1600 * EXTENT)
    with pytest.raises(SpecError, match="fewer logical volumes"):
        image_of(wanted, scratch / "pv.img")
