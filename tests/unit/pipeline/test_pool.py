"""Files kept by digest: what is given out is what was asked for, or nothing."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from imagekit.pipeline.pool import FilePool

DATA = b"package" * 50_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def pool(tmp_path: Path) -> FilePool:
    (tmp_path / "files").mkdir()
    pool = FilePool(tmp_path / "files")
    assert pool.keep(io.BytesIO(DATA), SHA256)
    return pool


def test_what_is_kept_is_given_out(pool: FilePool, tmp_path: Path) -> None:
    assert pool.has(SHA256)
    assert pool.copy(SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert (pool.root / SHA256).stat().st_mode & 0o777 == 0o600


def test_what_is_something_else_is_not_kept(pool: FilePool) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    assert not pool.keep(io.BytesIO(DATA), other)
    assert not pool.has(other)
    assert [path.name for path in pool.root.iterdir()] == [SHA256]


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_file_is_missing_and_goes(pool: FilePool, tmp_path: Path, damage: str) -> None:
    data = {"flipped": b"P" + DATA[1:], "cut": DATA[:-1], "emptied": b""}[damage]
    (pool.root / SHA256).write_bytes(data)
    assert not pool.copy(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not pool.has(SHA256)
    assert pool.keep(io.BytesIO(DATA), SHA256) and pool.copy(SHA256, tmp_path / "copy")


def test_a_file_that_others_may_write_to_is_missing(pool: FilePool, tmp_path: Path) -> None:
    (pool.root / SHA256).chmod(0o666)
    assert not pool.copy(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_nothing_is_overwritten(pool: FilePool, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(FileExistsError):
        pool.copy(SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "x", "../" + "a" * 61, "A" * 64, "a" * 65])
def test_a_name_that_is_no_digest_is_refused(pool: FilePool, name: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        pool.copy(name, Path("/nowhere"))


def test_what_a_killed_run_left_half_copied_goes(pool: FilePool) -> None:
    (pool.root / ".999999999-aa").write_bytes(b"half")
    mine = pool.root / f".{os.getpid()}-bb"
    mine.write_bytes(b"being copied")
    pool.sweep()
    assert {path.name for path in pool.root.iterdir()} == {SHA256, mine.name}


def test_a_copy_that_fails_leaves_nothing_and_the_file_stays(
    pool: FilePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: object, target: io.BufferedWriter) -> str:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("imagekit.pipeline.pool._copy", full)
        with pytest.raises(OSError, match="No space"):
            pool.copy(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert pool.copy(SHA256, tmp_path / "copy")
