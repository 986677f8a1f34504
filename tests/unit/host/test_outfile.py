"""Files that appear whole, also beside somebody who puts others in their place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.strangers import needs_root, strangers_folder

from imagekit.errors import ExistsError, HostError, SpecError
from imagekit.host.outfile import by_descriptor, os_errors, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_appears_whole_and_no_other_does(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "made"
    if overwrite:
        target.write_text("before")
    with replacing(target, overwrite=overwrite, mode=0o640) as part:
        part.write_text("half")
        assert not target.exists() or target.read_text() == "before"
        subprocess.run(["tee", part], input=b"whole", capture_output=True, check=True)
    assert target.read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.stat().st_nlink == 1
    assert names(tmp_path) == ["made"]


def test_a_failure_leaves_all_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.write_text("before")
    for error in (ValueError, KeyboardInterrupt, OSError):
        with pytest.raises((error, HostError)), replacing(target, overwrite=True) as part:
            part.write_text("half")
            raise error
    with pytest.raises(ExistsError), replacing(tmp_path / "new") as part:
        (tmp_path / "new").write_text("of somebody else")
        part.write_text("half")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "made": "before",
        "new": "of somebody else",
    }


def part_of(folder: Path) -> Path:
    (found,) = [path for path in folder.iterdir() if path.name.endswith(".part")]
    return found


def linked(part: Path, victim: Path) -> None:
    part.unlink()
    part.symlink_to(victim)


def named(part: Path, victim: Path) -> None:
    part.unlink()
    os.link(victim, part)


def moved_away(part: Path, victim: Path) -> None:
    """The whole directory, and a link to the victim's in its place."""
    part.parent.rename(part.parent.with_name("moved"))
    part.parent.symlink_to(victim.parent)


@pytest.mark.parametrize("swap", [linked, named, moved_away])
@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_put_in_its_place_is_not_written_to(
    tmp_path: Path, swap: Callable[[Path, Path], None], overwrite: bool
) -> None:
    folder, victims = tmp_path / "folder", tmp_path / "victims"
    folder.mkdir()
    victims.mkdir()
    victim = victims / "victim"
    victim.write_text("precious")
    try:
        with replacing(folder / "made", overwrite=overwrite, mode=0o666) as part:
            swap(part_of(folder), victim)
            part.write_text("whole")
            part.chmod(0o600)
    except HostError as error:
        assert "another file was put in its place" in error.what
        assert swap is not moved_away
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o644
    assert names(victims) == ["victim"]
    if swap is moved_away:
        assert (tmp_path / "moved/made").read_text() == "whole"


@needs_root
def test_a_directory_behind_a_stranger_s_link_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    theirs = strangers_folder(tmp_path / "theirs")
    (theirs / "out").symlink_to(tmp_path / "etc")
    with pytest.raises(SpecError), replacing(theirs / "out/made"):
        pytest.fail("opened")
    assert names(tmp_path / "etc") == []


def test_errors_by_descriptor_name_the_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    file = tmp_path / "file"
    try:
        with pytest.raises(HostError) as caught, by_descriptor(fd, file) as name:
            raise HostError("is wrong", where=f"{name}: header")
        assert caught.value.where == f"{file}: header"
        # Another descriptor, whose number begins with the same digits.
        with pytest.raises(HostError) as caught, by_descriptor(fd, file) as name:
            raise HostError("is wrong", where=f"{name}7")
        assert caught.value.where == f"{name}7"
        with pytest.raises(SpecError) as said, by_descriptor(fd, file) as name, os_errors(file):
            (name / "missing").stat()
        assert said.value.where == f"{file}/missing"
    finally:
        os.close(fd)
