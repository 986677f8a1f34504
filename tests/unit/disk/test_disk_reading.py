"""Images of strangers are read by workers: as the readers do, and at nobody's cost but theirs."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from imagekit.disk import image_info, reading, vhd, vhd_chain
from imagekit.disk.qcow2 import write_qcow2
from imagekit.errors import ExistsError, HostError, ImageError, SpecError

MIB = 1 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    noise = random.Random(1).randbytes(MIB)
    path.write_bytes(noise + bytes(5 * MIB) + noise + bytes(MIB))
    return path


@pytest.fixture(params=["raw", "qcow2", "dynamic", "fixed"])
def image(request: pytest.FixtureRequest, raw: Path, tmp_path: Path) -> tuple[Path, str]:
    if request.param == "raw":
        return raw, "raw"
    made = tmp_path / "made"
    if request.param == "qcow2":
        write_qcow2(raw, made)
        return made, "qcow2"
    vhd.write_vhd(raw, made, subformat=request.param)
    return made, "vhd"


def test_the_answer_is_that_of_the_readers(image: tuple[Path, str]) -> None:
    path, image_format = image
    assert reading.probe(path, image_format) == image_info.probe(path, image_format)
    if image_format == "raw":
        with pytest.raises(SpecError, match="never guessed"):
            reading.detect(path)
    else:
        assert reading.detect(path) == image_format


def test_a_disk_that_names_its_parent_in_utf_16_is_refused_as_what_it_is(
    raw: Path, tmp_path: Path
) -> None:
    vhd.write_vhd(raw, tmp_path / "base.vhd")
    child = tmp_path / "child.vhd"
    vhd_chain.write_child(child, tmp_path / "base.vhd", [], raw)
    with pytest.raises(ImageError) as direct:
        image_info.probe(child, "vhd")
    with pytest.raises(ImageError) as confined:
        reading.probe(child, "vhd")
    assert str(confined.value) == str(direct.value)
    assert "hostile" not in str(direct.value)


def test_errors_are_those_of_the_readers_and_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(b"QFI\xfb" + bytes(600))
    for path, image_format, kind in (
        (tmp_path / "cut", "qcow2", ImageError),
        (tmp_path / "cut", "vhd", ImageError),
        (tmp_path / "none", "raw", SpecError),
        (tmp_path, "raw", SpecError),
        (tmp_path / "cut", "vmdk", SpecError),
    ):
        with pytest.raises(kind) as caught:
            reading.probe(path, image_format)
        assert image_format == "vmdk" or caught.value.where == str(path)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_vhd_is_unpacked_whole_with_its_progress(
    raw: Path, tmp_path: Path, subformat: vhd.Subformat
) -> None:
    vhd.write_vhd(raw, tmp_path / "a.vhd", subformat=subformat)
    told: list[tuple[int, int]] = []
    reading.unpack_vhd(
        tmp_path / "a.vhd", tmp_path / "out", progress=lambda *done: told.append(done)
    )
    assert (tmp_path / "out").read_bytes() == raw.read_bytes()
    assert told
    assert told[-1] == (8 * MIB, 8 * MIB)
    assert told == sorted(told)
    assert (tmp_path / "out").stat().st_mode & 0o77 == 0
    with pytest.raises(ExistsError):
        reading.unpack_vhd(tmp_path / "a.vhd", tmp_path / "out")


def test_a_damaged_vhd_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    vhd.write_vhd(raw, tmp_path / "a.vhd")
    data = bytearray((tmp_path / "a.vhd").read_bytes())
    at = struct.unpack_from(">Q", data, 512 + 16)[0]  # of the block table (Table Offset)
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    (tmp_path / "a.vhd").write_bytes(data)
    with pytest.raises(ImageError, match="outside the file"):
        reading.unpack_vhd(tmp_path / "a.vhd", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.vhd", "disk.raw"]


def test_a_disk_that_is_full_is_the_hosts_fault(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of file size stands in for the full disk: the worker inherits none of ours."""
    vhd.write_vhd(raw, tmp_path / "a.vhd")
    within = reading._UNPACK.within

    def less(**limits: Any) -> Any:
        return within(**{**limits, "file_bytes": MIB})

    monkeypatch.setattr(reading._UNPACK, "within", less)
    with pytest.raises(HostError, match="larger than"):
        reading.unpack_vhd(tmp_path / "a.vhd", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_swapped_under_its_name_is_read_as_it_was_opened(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.qcow2"
    write_qcow2(raw, path)
    expected = image_info.probe(path, "qcow2")
    real = reading._PROBE

    def swapped(where: str, files: list[int], *arguments: Any) -> Any:
        path.unlink()
        os.mkfifo(path)
        return real(where, files, *arguments)

    monkeypatch.setattr(reading, "_PROBE", swapped)
    assert reading.probe(path, "qcow2") == expected
