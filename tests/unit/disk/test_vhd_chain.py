"""Differencing VHDs: what a child holds covers its parent, by our reader and by libvhdi."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import libvhdi

from imagekit.disk import reading, vhd, vhd_chain, vhd_format
from imagekit.disk.extents import Change
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import ExistsError, ImageError, SpecError

SIZE = 4 << 20
SECTORS = SIZE // 512


def parent_of(directory: Path, content: bytes) -> Path:
    raw = directory / "base.raw"
    raw.write_bytes(content)
    vhd.write_vhd(raw, directory / "base.vhd")
    return directory / "base.vhd"


def some_bytes(size: int) -> bytes:
    period = bytes((i * 7 + i // 512) & 0xFF for i in range(251 * 64))
    return (period * (size // len(period) + 1))[:size]


@st.composite
def stretches(draw: st.DrawFn, unit: int) -> list[tuple[int, int, bool]]:
    """(first sector, count, whether zeros), in order and apart, in multiples of ``unit``."""
    edges = sorted(x * unit for x in draw(st.sets(st.integers(0, SECTORS // unit), max_size=12)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return [(a, b - a, draw(st.booleans())) for a, b in pairs]


@pytest.mark.parametrize("unit", [1, 8])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_chain_reads_as_its_parent_with_the_changes_on_top(
    unit: int, data: st.DataObject
) -> None:
    first, second = data.draw(stretches(unit)), data.draw(stretches(unit))
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        want = bytearray(some_bytes(SIZE))
        want[1 << 20 : 3 << 20] = bytes(2 << 20)
        chain = [parent_of(place, bytes(want))]
        for number, changes in enumerate((first, second)):
            content = place / f"content{number}"
            content.write_bytes(some_bytes(SIZE)[::-1])
            made = []
            for sector, count, zeros in changes:
                start, length = sector * 512, count * 512
                made.append(Change(start, length, None if zeros else start))
                source = bytes(length) if zeros else content.read_bytes()[start : start + length]
                want[start : start + length] = source
            child = place / f"child{number}.vhd"
            vhd_chain.write_child(child, chain[0], made, content)
            chain.insert(0, child)
        reading.unpack_chain(chain, place / "got.raw")
        same = (place / "got.raw").read_bytes() == want
        assert same
        # libvhdi takes a bitmap by its bytes, eight sectors, where blktap takes it by its bits.
        if unit == 8 and libvhdi.available():
            foreign = libvhdi.read_chain(chain) == want
            assert foreign


def test_a_child_names_its_parent_for_every_reader(tmp_path: Path) -> None:
    place = tmp_path / "golden disk"
    place.mkdir()
    parent = parent_of(place, some_bytes(SIZE))
    os.utime(parent, (1700000000, 1700000000))
    child = tmp_path / "guest.vhd"
    vhd_chain.write_child(child, parent, [], parent)
    raw = child.read_bytes()
    header = raw[512:1536]
    claim = vhd_format.parse_header(header, "child").parent
    identity = vhd_format.parse_footer(parent.read_bytes()[-512:], "parent")[0].unique_id
    assert claim is not None
    assert (claim.unique_id, claim.name) == (identity, "base.vhd")
    assert claim.timestamp == 1700000000 - vhd_format.EPOCH
    found = {}
    for at in range(576, 576 + 3 * 24, 24):
        code = header[at : at + 4]
        length = int.from_bytes(header[at + 8 : at + 12], "big")
        offset = int.from_bytes(header[at + 16 : at + 24], "big")
        assert int.from_bytes(header[at + 4 : at + 8], "big") >= length
        found[code] = raw[offset : offset + length]
    assert found[b"MacX"] == b"file://./golden%20disk/base.vhd"
    assert found[b"W2ru"].decode("utf-16-le") == ".\\golden disk\\base.vhd"
    assert found[b"W2ku"].decode("utf-16-le") == str(parent).replace("/", "\\")
    if shutil.which("vhdiinfo"):
        done = subprocess.run(["vhdiinfo", child], capture_output=True, text=True, check=True)
        assert "Differential" in done.stdout
        assert str(identity) in done.stdout


def test_every_disk_of_a_chain_has_a_uuid_as_rfc_4122_has_it(tmp_path: Path) -> None:
    """Xen Orchestra's tools end at other sixteen bytes, which their uuid package refuses."""
    disk = parent_of(tmp_path, some_bytes(SIZE))
    for number in range(16):
        child = tmp_path / f"{number}.vhd"
        vhd_chain.write_child(child, disk, [], disk)
        footer = vhd_format.parse_footer(child.read_bytes()[-512:], "child", link=True)[0]
        assert (footer.unique_id.variant, footer.unique_id.version) == (uuid.RFC_4122, 4)
    base = vhd_format.parse_footer(disk.read_bytes()[-512:], "base")[0].unique_id
    assert (base.variant, base.version) == (uuid.RFC_4122, 5)


def test_an_overlay_becomes_a_child(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, some_bytes(SIZE))
    overlay, child = tmp_path / "o.qcow2", tmp_path / "child.vhd"
    make: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "vpc",
        "-b",
        parent,
        overlay,
    ]
    subprocess.run([*make, str(SIZE)], check=True)
    words = ["write -q -P 7 1M 100k", "write -q -z 3M 512k", "write -q -P 9 2044k 8k"]
    argv = [x for word in words for x in ("-c", word)]
    subprocess.run(["qemu-io", "-f", "qcow2", *argv, overlay], check=True)
    vhd_chain.from_overlay(overlay, parent, child)
    want = bytearray(some_bytes(SIZE))
    want[1 << 20 : (1 << 20) + 102400] = b"\x07" * 102400
    want[3 << 20 : 7 << 19] = bytes(1 << 19)
    want[2044 << 10 : 2052 << 10] = b"\x09" * 8192
    reading.unpack_chain([child, parent], tmp_path / "got.raw")
    same = (tmp_path / "got.raw").read_bytes() == want
    assert same
    assert child.stat().st_blocks * 512 < 1 << 20


def test_a_link_does_not_pass_for_a_whole_disk_nor_with_another_parent(tmp_path: Path) -> None:
    parent = parent_of(tmp_path, some_bytes(SIZE))
    child = tmp_path / "child.vhd"
    vhd_chain.write_child(child, parent, [], parent)
    with pytest.raises(ImageError, match="differencing"):
        vhd.read_vhd(child, tmp_path / "x.raw")
    other = tmp_path / "other"
    other.mkdir()
    stranger = parent_of(other, bytes(SIZE))
    for chain in ([child, stranger], [parent, parent], [child]):
        with pytest.raises(ImageError):
            reading.unpack_chain(chain, tmp_path / "x.raw")
    assert not (tmp_path / "x.raw").exists()
    with pytest.raises(SpecError):
        reading.unpack_chain([], tmp_path / "x.raw")
    with pytest.raises(ExistsError):
        vhd_chain.write_child(child, parent, [], parent)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_link_ends_in_an_image_error_or_in_a_disk(places: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        parent = parent_of(place, bytes(4 << 20))
        child = place / "child.vhd"
        vhd_chain.write_child(child, parent, [Change(512, 1024, 0)], parent)
        data = bytearray(child.read_bytes())
        for offset, value in places:
            data[offset % 8192] = value
        child.write_bytes(data)
        started = time.monotonic()
        try:
            with child.open("rb") as stream:
                disk = VhdReader(stream.fileno(), "child", link=True)
                assert all(0 <= a < a + n <= 4 << 20 for a, n, _ in disk.written())
        except ImageError:
            pass
        assert time.monotonic() - started < 60
