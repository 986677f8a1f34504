"""Images of others are changed in place, and nothing else is, whatever their owner swaps."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.strangers import STRANGER, given_away, needs_root, strangers_folder

from imagekit.disk import qemu_img
from imagekit.disk.image_info import probe
from imagekit.disk.vhd import read_vhd, write_vhd
from imagekit.errors import BusyError, HostError, ImagekitError, SpecError
from imagekit.guest import redo
from imagekit.guest.working import WorkingCopy, readable_copy, working_copy
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace

pytestmark = [
    needs_root,
    pytest.mark.skipif(not shutil.which("qemu-io"), reason="missing: qemu-io, of qemu-utils"),
]
SIZE = 4 << 20
SECRET = b"the secret of the host ".ljust(512, b".")
FORMATS = ("raw", "qcow2", "vhd")


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    with workspace(Events()) as opened:
        yield opened


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of the host's, which must never change."""
    path = tmp_path / "victim"
    path.write_bytes(SECRET * (SIZE // 512))
    path.chmod(0o600)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    yield path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o600)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image_in(folder: Path, image_format: str, name: str = "disk") -> Path:
    image = folder / f"{name}.{image_format}"
    if image_format == "vhd":
        raw = folder / "raw"
        raw.write_bytes(bytes(SIZE))
        write_vhd(raw, image)
        raw.unlink()
    elif image_format == "raw":
        image.write_bytes(bytes(SIZE))
    else:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
    return image


def write(copy: WorkingCopy, byte: int = 0x42) -> None:
    argv = ["qemu-io", "-f", copy.format, "-c", f"write -P {byte} 8192 4096", str(copy.path)]
    subprocess.run(argv, check=True, capture_output=True)


def reads(path: Path, image_format: str, scratch: Path) -> bytes:
    """Two sectors where :func:`write` writes."""
    raw = scratch / "read.raw"
    if image_format == "vhd":
        read_vhd(path, raw, overwrite=True)
    else:
        argv: list[str | Path] = ["qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw]
        subprocess.run(argv, check=True)
    return raw.read_bytes()[8192:9216]


@pytest.fixture(params=["the directory", "the image too", "nothing"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Makes an image of a format; the directory, or more, is the stranger's."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def make(image_format: str) -> Path:
        image = image_in(folder, image_format)
        if request.param == "the image too":
            given_away(image)
        if request.param != "nothing":
            given_away(folder)
        return image

    return make


@pytest.mark.parametrize("image_format", FORMATS)
def test_an_image_is_changed_by_its_commit_only_and_nothing_is_left(
    theirs: Callable[[str], Path], tmp_path: Path, space: Workspace, image_format: str
) -> None:
    image = theirs(image_format)
    before = image.read_bytes(), image.stat().st_uid
    with working_copy(image, image_format, workspace=space) as copy:
        assert copy.virtual_size == SIZE
        write(copy)
    assert image.read_bytes() == before[0]
    with working_copy(image, image_format, workspace=space) as copy:
        write(copy)
        copy.commit()
    assert reads(image, image_format, tmp_path) == b"\x42" * 1024
    assert image.stat().st_uid == before[1]
    assert names(image.parent) == [image.name]
    changes = tmp_path / "cache/changes"
    assert not changes.exists() or names(changes) == []
    with readable_copy(image, image_format, workspace=space) as shown:
        assert reads(shown.path, shown.format, tmp_path) == b"\x42" * 1024


@pytest.mark.parametrize("image_format", FORMATS)
def test_in_a_stranger_s_directory_nothing_lies_that_they_could_swap(
    tmp_path: Path, space: Workspace, image_format: str
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    image = image_in(folder, image_format)
    given_away(folder)
    with working_copy(image, image_format, workspace=space) as copy:
        assert names(folder) == [image.name]
        assert copy.path.parent == space.directory
        assert copy.path.stat().st_mode & 0o777 == 0o600
        assert space.directory.stat().st_mode & 0o777 == 0o700


def gone(image: Path, victim: Path) -> None:
    image.unlink()


def a_link(image: Path, victim: Path) -> None:
    image.unlink()
    image.symlink_to(victim)


def a_second_name(image: Path, victim: Path) -> None:
    image.unlink()
    os.link(victim, image)


def a_directory_of_the_host(image: Path, victim: Path) -> None:
    image.parent.rename(image.parent.with_name("moved"))
    image.parent.symlink_to(victim.parent)
    victim.with_name(image.name).symlink_to(victim)


SWAPS = [gone, a_link, a_second_name, a_directory_of_the_host]


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("swap", SWAPS)
def test_a_commit_writes_to_the_file_that_was_checked_or_not_at_all(
    theirs: Callable[[str], Path],
    victim: Path,
    space: Workspace,
    image_format: str,
    swap: Callable[[Path, Path], None],
) -> None:
    image = theirs(image_format)
    with working_copy(image, image_format, workspace=space) as copy:
        write(copy)
        swap(image, victim)
        with pytest.raises(BusyError, match="another file was put in its place"):
            copy.commit()


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("swap", [a_link, a_second_name])
def test_what_is_swapped_before_it_is_opened_is_refused(
    tmp_path: Path,
    victim: Path,
    space: Workspace,
    image_format: str,
    swap: Callable[[Path, Path], None],
) -> None:
    image = image_in(strangers_folder(tmp_path / "theirs"), image_format)
    swap(image, victim)
    with pytest.raises(SpecError), working_copy(image, image_format, workspace=space):
        pytest.fail("opened")
    with pytest.raises(SpecError), readable_copy(image, image_format, workspace=space):
        pytest.fail("opened")


def test_a_qcow2_that_gets_a_backing_file_meanwhile_shows_no_file_of_the_host(
    tmp_path: Path, victim: Path, space: Workspace
) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = given_away(image_in(folder, "qcow2"))
    hostile = tmp_path / "hostile"
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
    subprocess.run([*argv, "-b", victim, hostile, str(SIZE)], check=True)
    for opened in (working_copy, readable_copy):
        good = image.read_bytes()
        with opened(image, "qcow2", workspace=space) as copy:
            image.write_bytes(hostile.read_bytes())
            assert reads(copy.path, copy.format, tmp_path) == bytes(1024)
        image.write_bytes(good)


def test_an_external_data_file_named_meanwhile_is_not_written_to(
    tmp_path: Path, victim: Path, space: Workspace
) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = given_away(image_in(folder, "qcow2"))
    hostile, scrap = tmp_path / "hostile", tmp_path / "scrap"
    options = f"data_file={scrap},data_file_raw=on"
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, hostile]
    subprocess.run([*argv, str(SIZE)], check=True)
    named = hostile.read_bytes().replace(
        os.fsencode(scrap), os.fsencode(victim).ljust(len(os.fsencode(scrap)), b"\0")
    )
    with working_copy(image, "qcow2", workspace=space) as copy:
        image.write_bytes(named)
        write(copy)
        copy.commit()
    assert probe(image, "qcow2").virtual_size == SIZE
    assert reads(image, "qcow2", tmp_path) == b"\x42" * 1024


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs, but what this test lets run."""


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_commit_that_was_interrupted_is_found_and_finished(
    theirs: Callable[[str], Path],
    tmp_path: Path,
    space: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    image_format: str,
) -> None:
    image = theirs(image_format)
    owner = image.stat().st_uid

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(qemu_img, "commit", killed)
        patch.setattr(redo, "copy_data", killed)
        with working_copy(image, image_format, workspace=space) as copy:
            write(copy)
            copy.commit()
    with (
        pytest.raises(BusyError, match="half written"),
        readable_copy(image, image_format, workspace=space),
    ):
        pytest.fail("opened")
    with working_copy(image, image_format, workspace=space) as copy:
        assert copy.notes == ("an interrupted change was finished first",)
    assert reads(image, image_format, tmp_path) == b"\x42" * 1024
    assert image.stat().st_uid == owner
    assert names(image.parent) == [image.name]
    with working_copy(image, image_format, workspace=space) as copy:
        assert copy.notes == ()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_interrupted_commit_is_finished_in_no_other_file(
    tmp_path: Path,
    victim: Path,
    space: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    image_format: str,
) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = given_away(image_in(folder, image_format))

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(qemu_img, "commit", killed)
        patch.setattr(redo, "copy_data", killed)
        with working_copy(image, image_format, workspace=space) as copy:
            write(copy)
            copy.commit()
    other = given_away(image_in(folder, image_format, "other"))
    content = other.read_bytes()
    other.rename(image)
    with (
        pytest.raises(BusyError, match="another file"),
        working_copy(image, image_format, workspace=space),
    ):
        pytest.fail("opened")
    assert image.read_bytes() == content
    with pytest.raises(BusyError), readable_copy(image, image_format, workspace=space):
        pytest.fail("opened")


def test_a_redo_file_that_a_stranger_planted_is_not_used(
    tmp_path: Path, victim: Path, space: Workspace
) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = given_away(image_in(folder, "raw"))
    before = image.read_bytes()
    planted = folder / f".{image.name}.imagekit-redo"
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
    subprocess.run([*argv, "-b", victim, planted, str(SIZE)], check=True)
    given_away(planted)
    with working_copy(image, "raw", workspace=space) as copy:
        assert copy.notes == ()
    assert image.read_bytes() == before
    # As root's, it can only have been left by a change in a directory that was root's then.
    os.chown(planted, 0, 0)
    with pytest.raises(BusyError), working_copy(image, "raw", workspace=space):
        pytest.fail("opened")


def test_a_full_store_of_changes_that_others_write_to_is_refused(
    tmp_path: Path, space: Workspace
) -> None:
    image = image_in(strangers_folder(tmp_path / "theirs"), "raw")
    (tmp_path / "cache/changes").mkdir(mode=0o777)
    (tmp_path / "cache/changes").chmod(0o777)
    with (
        pytest.raises(HostError, match="writable for everybody"),
        working_copy(image, "raw", workspace=space),
    ):
        pytest.fail("opened")


def test_a_vhd_of_a_stranger_with_the_setuid_bit_gets_no_program_of_root_s(
    tmp_path: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = given_away(image_in(folder, "vhd"))
    image.chmod(0o6755)
    seen: list[tuple[int, int]] = []
    change = os.fchmod

    def watched(fd: int, mode: int) -> None:
        change(fd, mode)
        status = os.fstat(fd)
        seen.append((status.st_uid, status.st_mode & 0o7777))

    monkeypatch.setattr(os, "fchmod", watched)
    with working_copy(image, "vhd", workspace=space) as copy:
        write(copy)
        copy.commit()
    assert (STRANGER, 0o755) in seen
    assert all(uid == STRANGER or not mode & 0o7000 for uid, mode in seen)
    assert image.stat().st_mode & 0o7777 == 0o755


def test_what_was_refused_names_the_image(tmp_path: Path, space: Workspace) -> None:
    folder = strangers_folder(tmp_path / "theirs")
    image = folder / "disk.qcow2"
    image.write_bytes(b"QFI\xfb" + bytes(2000))
    given_away(image)
    for opened in (working_copy, readable_copy):
        with (
            pytest.raises(ImagekitError) as caught,
            opened(image, "qcow2", workspace=space),
        ):
            pytest.fail("opened")
        assert caught.value.where == str(image)
