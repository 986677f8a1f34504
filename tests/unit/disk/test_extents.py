"""Sparse files are copied and digested exactly, and no failure leaves anything behind."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.disk import extents, raw
from imagekit.errors import ExistsError, HostError, ImagekitError, Interrupted, SpecError
from imagekit.host.outfile import replacing

MIB = 1 << 20
quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
pieces = st.lists(
    st.tuples(
        st.integers(0, 9 * MIB), st.integers(1, 70_000), st.sampled_from([b"\0", b"a", b"\0\0\0x"])
    ),
    max_size=6,
)


def sparse_file(path: Path, size: int, content: list[tuple[int, int, bytes]]) -> bytes:
    """Write the pieces that lie inside ``size``; returns the whole content."""
    image = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length, pattern in content:
            data = (pattern * length)[: max(0, min(length, size - offset))]
            file.seek(offset)
            file.write(data)
            image[offset : offset + len(data)] = data
    return bytes(image)


def hole_bytes(path: Path) -> int:
    return path.stat().st_size - extents.data_size(path)


@quick
@given(size=st.integers(1, 9 * MIB), content=pieces)
def test_everything_outside_the_extents_is_zero(
    tmp_path: Path, size: int, content: list[tuple[int, int, bytes]]
) -> None:
    image = bytearray(sparse_file(tmp_path / "a", size, content))
    previous = 0
    for offset, length in extents.data_extents(tmp_path / "a"):
        assert offset >= previous and length > 0 and offset + length <= size
        image[offset : offset + length] = bytes(length)
        previous = offset + length
    assert not any(image)


@quick
@given(size=st.integers(1, 9 * MIB), content=pieces)
def test_copy_and_digest_equal_the_plain_ones(
    tmp_path: Path, size: int, content: list[tuple[int, int, bytes]]
) -> None:
    image = sparse_file(tmp_path / "a", size, content)
    extents.copy_sparse(tmp_path / "a", tmp_path / "b", overwrite=True)
    assert (tmp_path / "b").read_bytes() == image
    assert extents.sha256_sparse(tmp_path / "a") == hashlib.sha256(image).hexdigest()


def test_zeros_that_were_written_become_holes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 4096 + bytes(8 * MIB) + b"y" * 10)
    extents.copy_sparse(tmp_path / "a", tmp_path / "b")
    assert hole_bytes(tmp_path / "b") >= 8 * MIB - 4096


def test_a_file_system_without_seek_data_yields_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = sparse_file(tmp_path / "a", 5 * MIB, [(3 * MIB, 100, b"z")])
    real = os.lseek

    def old_lseek(fd: int, offset: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", old_lseek)
    assert list(extents.data_extents(tmp_path / "a")) == [(0, 5 * MIB)]
    extents.copy_sparse(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == image


def test_an_odd_tail_of_zeros_keeps_the_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000 + bytes(3001))
    extents.copy_sparse(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    sparse_file(tmp_path / "a", 9 * MIB, [(0, 10, b"a"), (8 * MIB, 10, b"a")])
    seen: list[tuple[int, int]] = []
    extents.copy_sparse(tmp_path / "a", tmp_path / "b", progress=lambda *step: seen.append(step))
    assert seen == sorted(seen) and seen[-1] == (9 * MIB, 9 * MIB)


@pytest.mark.parametrize("name", ["a", "link", "hard"])
def test_source_and_target_may_not_be_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    with pytest.raises(SpecError, match="same file"):
        extents.copy_sparse(tmp_path / "a", tmp_path / name, overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"precious"


def test_an_existing_target_is_kept_unless_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(ExistsError):
        extents.copy_sparse(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"old"
    extents.copy_sparse(tmp_path / "a", tmp_path / "b", overwrite=True)
    assert (tmp_path / "b").read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with pytest.raises(ExistsError), replacing(target) as part:
        part.write_bytes(b"ours")
        target.write_bytes(b"theirs")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"theirs"


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), Interrupted(15), ValueError("bug")])
def test_any_failure_leaves_the_target_as_it_was(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"old")
    with pytest.raises(type(failure)), replacing(target, overwrite=True) as part:
        part.write_bytes(b"half")
        raise failure
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, HostError, "no space left"),
        (errno.EDQUOT, HostError, "no space left"),
        (errno.EFBIG, HostError, "larger than"),
        (errno.EIO, HostError, "Input/output"),
        (errno.EACCES, HostError, "denied"),
    ],
)
def test_what_the_host_refuses_is_explained(
    tmp_path: Path, number: int, kind: type[ImagekitError], words: str
) -> None:
    with pytest.raises(kind, match=words), replacing(tmp_path / "b"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_or_directory_is_no_image_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "missing", "fifo/x"):
        with pytest.raises(SpecError):
            extents.sha256_sparse(tmp_path / name)


@pytest.mark.parametrize("target", [".", "fifo", "missing/b", "fifo/b"])
def test_only_regular_files_in_existing_directories_are_written(
    tmp_path: Path, target: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(SpecError):
        extents.copy_sparse(tmp_path / "a", tmp_path / target, overwrite=True)


def test_a_raw_image_is_created_as_a_hole(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    raw.create(image, 10 << 30)
    assert image.stat().st_size == 10 << 30 and image.stat().st_blocks == 0


@pytest.mark.parametrize("size", [0, -512, 513])
def test_an_impossible_raw_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(SpecError):
        raw.create(tmp_path / "disk.raw", size)
    assert list(tmp_path.iterdir()) == []
