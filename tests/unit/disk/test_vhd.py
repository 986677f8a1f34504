"""VHD files satisfy a checker written after XenServer's, and hostile ones are refused."""

from __future__ import annotations

import runpy
import struct
import time
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oracles.builds import ROOT

from imagekit.disk import image_info
from imagekit.disk.vhd import Subformat, read_vhd, virtual_size_of, write_vhd
from imagekit.disk.vhd_format import geometry
from imagekit.errors import ExistsError, ImageError, SpecError

ORACLE = runpy.run_path(str(ROOT / "tests/oracles/vhd_check.py"))
complaints, disk_bytes = ORACLE["complaints"], ORACLE["disk_bytes"]
largest_geometry = ORACLE["largest_geometry"]

MIB = 1 << 20
ID = UUID("6a1e6f9e-3c1b-4f0e-9a53-0c9f3ad0a001")
quick = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
pieces = st.lists(
    st.tuples(st.integers(0, 9 * MIB), st.binary(min_size=1, max_size=5000)), max_size=5
)


def raw_file(path: Path, size: int, content: list[tuple[int, bytes]]) -> bytes:
    image = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in content:
            data = data[: max(0, size - offset)]
            file.seek(offset)
            file.write(data)
            image[offset : offset + len(data)] = data
    return bytes(image)


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    """A dynamic VHD of 12 MiB: blocks 0 and 3 hold data."""
    raw_file(tmp_path / "raw", 12 * MIB, [(0, b"boot" * 2000), (7 * MIB, b"tail" * 2000)])
    write_vhd(tmp_path / "raw", tmp_path / "a.vhd", unique_id=ID, timestamp=1_700_000_000)
    return tmp_path / "a.vhd"


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def seal(path: Path, offset: int, length: int, field: int) -> None:
    """Make the checksum of a patched structure right again."""
    data = bytearray(path.read_bytes()[offset : offset + length])
    data[field : field + 4] = bytes(4)
    patch(path, offset + field, struct.pack(">I", ~sum(data) & 0xFFFFFFFF))


def patch_footer(path: Path, field: int, data: bytes) -> None:
    """Change a field in both footers, checksums included."""
    for start in (path.stat().st_size - 512, 0):
        patch(path, start + field, data)
        seal(path, start, 512, 64)


def patch_header(path: Path, field: int, data: bytes) -> None:
    patch(path, 512 + field, data)
    seal(path, 512, 1024, 36)


def refused(path: Path) -> None:
    """Every way to read the file raises ImageError and writes nothing."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ImageError):
        image_info.probe(path, "vhd")
    with pytest.raises(ImageError):
        read_vhd(path, path.with_suffix(".out"))
    assert sorted(path.parent.iterdir()) == before


@quick
@given(size=st.integers(1, 10 * MIB), content=pieces, fixed=st.booleans())
@example(size=1, content=[(0, b"x")], fixed=False)
@example(size=8 * MIB, content=[], fixed=False)
@example(size=8 * MIB, content=[(8 * MIB - 1, b"x")], fixed=True)
def test_written_disks_are_valid_exact_and_read_back(
    tmp_path: Path, size: int, content: list[tuple[int, bytes]], fixed: bool
) -> None:
    image = raw_file(tmp_path / "raw", size, content)
    vhd = tmp_path / "a.vhd"
    subformat: Subformat = "fixed" if fixed else "dynamic"
    write_vhd(tmp_path / "raw", vhd, subformat=subformat, overwrite=True)
    padded = image.ljust(virtual_size_of(size), b"\0")
    assert complaints(vhd) == []
    assert disk_bytes(vhd) == padded
    read_vhd(vhd, tmp_path / "back", overwrite=True)
    assert (tmp_path / "back").read_bytes() == padded
    info = image_info.probe(vhd, "vhd")
    assert (info.virtual_size, info.details["subformat"]) == (len(padded), subformat)
    assert image_info.detect(vhd) == "vhd"


def test_blocks_of_zeros_are_not_allocated(dynamic: Path) -> None:
    # Two footers, header, table, batmap with its header, two blocks with bitmap and alignment.
    assert dynamic.stat().st_size < 2 * (2 * MIB + 4096) + 8192


def test_same_identity_and_time_make_the_same_bytes(tmp_path: Path, dynamic: Path) -> None:
    write_vhd(tmp_path / "raw", tmp_path / "b.vhd", unique_id=ID, timestamp=1_700_000_000)
    assert (tmp_path / "b.vhd").read_bytes() == dynamic.read_bytes()
    assert image_info.probe(dynamic, "vhd").details["unique_id"] == str(ID)
    assert image_info.probe(dynamic, "vhd").details["timestamp"] == 1_700_000_000


def test_without_an_identity_equal_content_has_an_equal_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    raw_file(tmp_path / "raw", 5 * MIB, [(MIB, b"data")])
    # The same content without a single hole.
    (tmp_path / "full").write_bytes((tmp_path / "raw").read_bytes())
    raw_file(tmp_path / "other", 5 * MIB, [(MIB, b"Data")])
    for name in ("raw", "full", "other"):
        write_vhd(tmp_path / name, tmp_path / f"{name}.vhd")
    assert (tmp_path / "raw.vhd").read_bytes() == (tmp_path / "full.vhd").read_bytes()
    ids = {
        image_info.probe(tmp_path / f"{n}.vhd", "vhd").details["unique_id"]
        for n in ("raw", "other")
    }
    assert len(ids) == 2


def test_the_time_is_never_before_2000_nor_by_default_in_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    raw_file(tmp_path / "raw", 512, [(0, b"x")])
    write_vhd(tmp_path / "raw", tmp_path / "old.vhd", timestamp=0)
    write_vhd(tmp_path / "raw", tmp_path / "now.vhd")
    assert image_info.probe(tmp_path / "old.vhd", "vhd").details["timestamp"] == 946684800
    assert (
        abs(int(image_info.probe(tmp_path / "now.vhd", "vhd").details["timestamp"]) - time.time())
        < 60
    )
    with pytest.raises(SpecError):
        write_vhd(tmp_path / "raw", tmp_path / "far.vhd", timestamp=1 << 40)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(SpecError, match="SOURCE_DATE_EPOCH"):
        write_vhd(tmp_path / "raw", tmp_path / "far.vhd")


def test_sizes_are_whole_2_mib_up_to_2040_gib() -> None:
    assert virtual_size_of(0) == virtual_size_of(1) == virtual_size_of(2 * MIB) == 2 * MIB
    assert virtual_size_of(2 * MIB + 1) == 4 * MIB
    assert virtual_size_of(2040 << 30) == 2040 << 30
    with pytest.raises(SpecError, match="2040 GiB"):
        virtual_size_of((2040 << 30) + 1)


def test_geometry_is_that_of_libvhd() -> None:
    assert geometry(64 * MIB) == (963, 8, 17)
    for exponent in range(21, 42):
        for size in (1 << exponent, (1 << exponent) + 2 * MIB, (1 << exponent) * 3 // 2):
            assert geometry(size) == largest_geometry(size), size


def test_sectors_never_written_read_as_zeros(tmp_path: Path, dynamic: Path) -> None:
    table = struct.unpack(">I", dynamic.read_bytes()[1536:1540])[0]
    patch(dynamic, table * 512, b"\xbf")  # the second sector's bit
    read_vhd(dynamic, tmp_path / "back")
    expected = bytearray((tmp_path / "raw").read_bytes())
    expected[512:1024] = bytes(512)
    assert (tmp_path / "back").read_bytes() == bytes(expected) == disk_bytes(dynamic)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        (0, b"conectiX"),
        (12, struct.pack(">I", 0x20000)),
        (16, struct.pack(">Q", 1 << 40)),
        (16, struct.pack(">Q", (1 << 64) - 1)),
        (48, struct.pack(">Q", 0)),
        (48, struct.pack(">Q", 12 * MIB + 1)),
        (48, struct.pack(">Q", 2040 << 30)),
        (48, struct.pack(">Q", (1 << 64) - 512)),
        (60, struct.pack(">I", 2)),
        (60, struct.pack(">I", 4)),
        (60, struct.pack(">I", 77)),
    ],
)
def test_a_hostile_footer_is_refused(dynamic: Path, field: int, data: bytes) -> None:
    patch_footer(dynamic, field, data)
    refused(dynamic)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        (0, b"cxsparsE"),
        (16, struct.pack(">Q", 0)),
        (16, struct.pack(">Q", 1 << 50)),
        (16, struct.pack(">Q", (1 << 64) - 4)),
        (24, struct.pack(">I", 0x20000)),
        (28, struct.pack(">I", 1)),
        (32, struct.pack(">I", 0)),
        (32, struct.pack(">I", 512)),
        (32, struct.pack(">I", 3 * MIB)),
        (32, struct.pack(">I", 1 << 31)),
    ],
)
def test_a_hostile_header_is_refused(dynamic: Path, field: int, data: bytes) -> None:
    patch_header(dynamic, field, data)
    refused(dynamic)


def test_a_claimed_table_of_4_billion_entries_is_not_read(dynamic: Path) -> None:
    # Only what the disk's size needs is read: no memory follows from the claim.
    patch_header(dynamic, 28, struct.pack(">I", 0xFFFFFFFE))
    assert image_info.probe(dynamic, "vhd").virtual_size == 12 * MIB


@pytest.mark.parametrize("sector", [0, 1, 3, 0xFFFFFFFE, 1 << 20])
def test_a_block_outside_the_file_or_over_metadata_is_refused(dynamic: Path, sector: int) -> None:
    patch(dynamic, 1536 + 4, struct.pack(">I", sector))
    refused(dynamic)


@pytest.mark.parametrize("shift", [0, 1, -1, 4000])
def test_overlapping_blocks_are_refused(dynamic: Path, shift: int) -> None:
    first = struct.unpack(">I", dynamic.read_bytes()[1536:1540])[0]
    last = struct.unpack(">I", dynamic.read_bytes()[1548:1552])[0]
    near = first if shift >= 0 else last
    patch(dynamic, 1536 + 4, struct.pack(">I", near + shift))
    refused(dynamic)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 1535, 1536, 2048, 5000, 3 * MIB])
def test_a_truncated_file_is_refused(dynamic: Path, length: int) -> None:
    with dynamic.open("r+b") as file:
        file.truncate(length)
    refused(dynamic)


@pytest.mark.parametrize("change", [-512, 512, 2 * MIB])
def test_a_fixed_disk_of_another_size_than_its_footer_is_refused(
    tmp_path: Path, change: int
) -> None:
    raw_file(tmp_path / "raw", 4 * MIB, [(0, b"x")])
    write_vhd(tmp_path / "raw", tmp_path / "a.vhd", subformat="fixed")
    footer = (tmp_path / "a.vhd").read_bytes()[-512:]
    with (tmp_path / "a.vhd").open("r+b") as file:
        file.truncate(4 * MIB + change)
        file.seek(0, 2)
        file.write(footer)
    refused(tmp_path / "a.vhd")


@settings(quick, max_examples=150)
@given(
    place=st.one_of(st.integers(0, 3072), st.integers(-600, -1)),
    data=st.binary(min_size=1, max_size=12),
    sealed=st.booleans(),
)
def test_mutated_metadata_never_escapes_as_another_error(
    tmp_path: Path, place: int, data: bytes, sealed: bool
) -> None:
    vhd = tmp_path / "a.vhd"
    raw_file(tmp_path / "raw", 8 * MIB, [(3 * MIB, b"x")])
    write_vhd(tmp_path / "raw", vhd, unique_id=ID, timestamp=1_700_000_000, overwrite=True)
    size = vhd.stat().st_size
    patch(vhd, place % size, data)
    with vhd.open("r+b") as file:
        file.truncate(size)
    if sealed:
        for offset, length, field in ((0, 512, 64), (512, 1024, 36), (size - 512, 512, 64)):
            seal(vhd, offset, length, field)
    try:
        # A disk of many GiB that passes is one hole: writing it costs nothing.
        read_vhd(vhd, tmp_path / "back", overwrite=True)
    except ImageError as error:
        assert error.where == str(vhd)


def test_an_existing_target_is_kept_unless_told(tmp_path: Path, dynamic: Path) -> None:
    before = dynamic.read_bytes()
    with pytest.raises(ExistsError):
        write_vhd(tmp_path / "raw", dynamic)
    with pytest.raises(ExistsError):
        read_vhd(dynamic, tmp_path / "raw")
    assert dynamic.read_bytes() == before
