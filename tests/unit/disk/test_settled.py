"""What was checked is what is used, though its owner swaps and rewrites the file meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imagekit.disk import convert as conversion
from imagekit.disk import image_info, qemu_img
from imagekit.disk.convert import convert
from imagekit.disk.image_info import ImageInfo
from imagekit.disk.settled import settled
from imagekit.errors import ImageError, SpecError
from imagekit.host import ownership

MIB = 1 << 20
SECRET = b"the secret of the host ".ljust(512, b".") * 128


@pytest.fixture(params=["ours", "a stranger's"])
def stranger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the files of the test count as another user's."""
    found = bool(request.param != "ours")
    if found:
        monkeypatch.setattr(ownership, "trusted_owners", lambda: frozenset({64001}))
    return found


def test_a_replaced_file_is_not_the_one_that_was_opened(tmp_path: Path, stranger: bool) -> None:
    file = tmp_path / "file"
    file.write_text("good")
    with settled(file, tmp_path) as path:
        file.unlink()
        file.write_text("evil")
        assert path.read_text() == "good"
        shown = subprocess.run(["cat", path], capture_output=True, check=True).stdout
        assert shown == b"good"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_stranger_rewrites_in_place_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"good" + bytes(MIB) + b"end")
    monkeypatch.setattr(ownership, "trusted_owners", lambda: frozenset({64001}))
    with settled(file, tmp_path) as path:
        file.write_text("evil")
        assert path.read_bytes() == b"good" + bytes(MIB) + b"end"


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_a_file_that_everybody_writes_to_is_copied(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.write_text("good")
    file.chmod(mode)
    with settled(file, tmp_path) as path:
        file.write_text("evil")
        assert path.read_text() == "good"


def test_one_s_own_file_is_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("good")
    with settled(file, tmp_path) as path:
        assert path.samefile(file)


def test_errors_name_the_file_and_nothing_waits(tmp_path: Path, stranger: bool) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ImageError) as caught, settled(file, tmp_path) as path:
        raise ImageError("is damaged", where=f"{path}: header")
    assert caught.value.where == f"{file}: header"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="neither a file"), settled(tmp_path / "pipe", tmp_path):
        pytest.fail("opened")


needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def qcow2(path: Path, *more: str | Path) -> Path:
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "1M"]
    subprocess.run(argv, check=True)
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A qcow2 that stands on a file of the host."""
    (tmp_path / "secret").write_bytes(SECRET.ljust(MIB, b"\0"))
    return qcow2(tmp_path / "hostile", "-b", tmp_path / "secret", "-F", "raw")


def replaced(source: Path, hostile: Path) -> None:
    source.unlink()
    shutil.copyfile(hostile, source)


def rewritten(source: Path, hostile: Path) -> None:
    source.write_bytes(hostile.read_bytes())


@needs_qemu
@pytest.mark.parametrize("target", ["raw", "qcow2", "vhd"])
@pytest.mark.parametrize("swap", [replaced, rewritten])
@pytest.mark.parametrize("after", [1, 2])
def test_a_qcow2_that_gets_a_backing_file_after_it_was_checked_reads_no_file_of_the_host(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stranger: bool,
    hostile: Path,
    target: str,
    swap: Callable[[Path, Path], None],
    after: int,
) -> None:
    source = qcow2(tmp_path / "source")
    calls = []

    def probe(path: Path, image_format: str) -> ImageInfo:
        info = image_info.probe(path, image_format)
        calls.append(path)
        if len(calls) == after:
            swap(source, hostile)
        return info

    monkeypatch.setattr(conversion, "probe", probe)
    made = tmp_path / "made"
    try:
        convert(source, made, source_format="qcow2", target_format=target)
    except ImageError as error:
        assert str(source) in str(error)
        assert not made.exists()
    else:
        assert SECRET[:512] not in made.read_bytes()


@needs_qemu
def test_qemu_img_opens_only_the_backing_file_that_it_is_given(
    tmp_path: Path, hostile: Path
) -> None:
    (tmp_path / "other").write_bytes(b"other" * MIB)
    bases = {
        "none": None,
        "other": (tmp_path / "other", "raw"),
        "secret": (tmp_path / "secret", "raw"),
    }
    for name, base in bases.items():
        made = tmp_path / f"made-{name}"
        qemu_img.convert(hostile, made, source_format="qcow2", target_format="raw", base=base)
        assert (SECRET[:512] in made.read_bytes()) == (name == "secret")
        assert (b"otherother" in made.read_bytes()) == (name == "other")
    qemu_img.check(hostile, "qcow2")
    qemu_img.measure(hostile, "qcow2")
    (tmp_path / "secret").unlink()
    qemu_img.check(hostile, "qcow2")


@needs_qemu
def test_a_name_that_means_something_to_qemu_is_a_name(tmp_path: Path) -> None:
    source = qcow2(tmp_path / "plain").rename(tmp_path / 'nbd:a,b="c"\\d \u00e4')
    qemu_img.check(source, "qcow2")
    convert(source, tmp_path / "made", source_format="qcow2", target_format="raw")
    assert (tmp_path / "made").stat().st_size == MIB
    (tmp_path / "cut").write_bytes(b"QFI\xfb" + bytes(600))
    with pytest.raises(ImageError) as caught:
        qemu_img.check(tmp_path / "cut", "qcow2")
    assert "json:" not in str(caught.value)


@needs_qemu
@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_pieces_are_written_into_an_overlay_and_its_base_stays(
    tmp_path: Path, base_format: str
) -> None:
    base = tmp_path / "base"
    if base_format == "raw":
        base.write_bytes(b"b" * MIB)
    else:
        qcow2(base)
    before = base.read_bytes()
    overlay, made = tmp_path / "overlay", tmp_path / "made"
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", base_format]
    subprocess.run([*argv, "-b", base, overlay, str(2 * MIB)], check=True)
    pieces = [(512, b"1" * 512), (2 * MIB - 1024, b"2" * 1024)]
    qemu_img.write(overlay, (base, base_format), pieces)
    qemu_img.convert(
        overlay, made, source_format="qcow2", target_format="raw", base=(base, base_format)
    )
    expected = bytearray(b"b" * MIB if base_format == "raw" else bytes(MIB)) + bytes(MIB)
    for offset, data in pieces:
        expected[offset : offset + len(data)] = data
    assert made.read_bytes() == expected
    assert base.read_bytes() == before
    found = qemu_img.changes(overlay, base, base_format)
    assert {c.offset // (64 << 10) for c in found if c.source is not None} == {0, 31}
