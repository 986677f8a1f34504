"""A difference and what it was made with give the file again, whatever they are."""

from __future__ import annotations

import os
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import flip

from imagekit.pipeline.difference import (
    BLOCK,
    PROBE,
    SECTOR,
    Source,
    put_together,
    write_difference,
)

# Pieces of files, of which several files consist: other lengths, other places, zeros, odd ends.
PIECES = [random.Random(n).randbytes(size) for n, size in enumerate((512, 1536, 4096, 20000, 3))]
CONTENT = st.lists(
    st.one_of(st.sampled_from(PIECES), st.integers(1, 3).map(lambda n: bytes(4096 * n))),
    max_size=12,
).map(b"".join)


def difference(new: Path, bases: list[tuple[Path, int]], target: Path, most: float = 9e9) -> bool:
    sources = [Source(path, unit) for path, unit in bases]
    try:
        return write_difference(new, sources, target, most=most)
    finally:
        for source in sources:
            source.close()


def written(path: Path, content: bytes) -> Path:
    """A sparse file: whole blocks of zeros are holes."""
    with path.open("wb") as stream:
        for at in range(0, len(content), BLOCK):
            block = content[at : at + BLOCK]
            stream.seek(len(block), os.SEEK_CUR) if not any(block) else stream.write(block)
        stream.truncate(len(content))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(root=CONTENT, donor=CONTENT, new=CONTENT)
def test_whatever_the_files_are_the_whole_comes_back(
    tmp_path: Path, root: bytes, donor: bytes, new: bytes
) -> None:
    bases = [
        (written(tmp_path / "root", root), BLOCK),
        (written(tmp_path / "donor", donor), SECTOR),
    ]
    file, part, whole = written(tmp_path / "new", new), tmp_path / "part", tmp_path / "whole"
    for path in (part, whole):
        path.unlink(missing_ok=True)
    if not difference(file, bases, part):
        assert not any(new), "there is nothing to write"
        return
    put_together(part, [path for path, _unit in bases], whole)
    assert whole.read_bytes() == new


def timeless(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime = 0
    return info


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """Two tar files of many small files, the second one with one file more in the middle."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(300):
        content = random.Random(number).randbytes(10_000 + number)
        (folder / f"file{number:03}").write_bytes(content)
    made = []
    for name in ("old.tar", "new.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(folder, ".", filter=timeless)
        made.append(tmp_path / name)
        (folder / "file150a").write_bytes(random.Random(7).randbytes(20_000))
    return made


def test_a_tree_with_one_file_more_takes_little_more_than_that_file(
    tmp_path: Path, trees: list[Path]
) -> None:
    old, new = trees
    part = tmp_path / "part"
    assert difference(new, [(old, BLOCK)], part, most=0.5)
    assert part.stat().st_size < 60_000 < new.stat().st_size / 50


def test_a_disk_of_a_tree_is_found_in_the_tree_and_holes_stay_holes(
    tmp_path: Path, trees: list[Path]
) -> None:
    disk, part, whole = tmp_path / "disk", tmp_path / "part", tmp_path / "whole"
    with tarfile.open(trees[1]) as tar, disk.open("wb") as stream:
        for number, info in enumerate(reversed(tar.getmembers())):
            file = tar.extractfile(info)
            stream.seek((1 << 20) + 16384 * number)
            stream.write(file.read() if file else b"")
        stream.truncate(1 << 30)
    assert difference(disk, [(trees[0], BLOCK)], part, most=0.5)
    assert part.stat().st_size < disk.stat().st_blocks * 512 / 4
    put_together(part, [trees[0]], whole)
    assert whole.stat().st_size == 1 << 30
    assert whole.stat().st_blocks <= disk.stat().st_blocks
    with whole.open("rb") as one, disk.open("rb") as other:
        assert one.read(16 << 20) == other.read(16 << 20)


def test_what_has_nothing_in_common_is_left_alone_after_a_look(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(random.Random(1).randbytes(1 << 20))
    new = tmp_path / "new"
    new.write_bytes(random.Random(2).randbytes(PROBE + (8 << 20)))
    assert not difference(new, [(tmp_path / "old", BLOCK)], tmp_path / "part", most=0.5)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("what", ["cut off", "another base", "a flipped number", "a short base"])
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, trees: list[Path], what: str
) -> None:
    old, new = trees
    part, whole = tmp_path / "part", tmp_path / "whole"
    assert difference(new, [(old, BLOCK)], part)
    if what == "cut off":
        os.truncate(part, part.stat().st_size - 1)
    elif what == "a flipped number":
        with part.open("r+b") as stream:
            stream.seek(-8, os.SEEK_END)
            stream.write(b"\0" * 8)
    elif what == "a short base":
        os.truncate(old, 1 << 20)
    bases = [old, old] if what == "another base" else [old]
    if what == "another base":
        with part.open("r+b") as stream:
            stream.seek(-24 - 16, os.SEEK_END)
            stream.write((7).to_bytes(8, "little"))
    with pytest.raises(ValueError, match=r"difference|made with"):
        put_together(part, bases, whole)
    assert not whole.exists()


def test_a_flipped_bit_shows_in_the_whole(tmp_path: Path, trees: list[Path]) -> None:
    part = tmp_path / "part"
    assert difference(trees[1], [(trees[0], BLOCK)], part)
    flip(trees[0])
    put_together(part, [trees[0]], tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() != trees[1].read_bytes()
