"""Digests of large inputs: of what they are, wherever they lie, and read once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imagekit.pipeline import digests
from imagekit.pipeline.digests import file_digest, tree_digest


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", -1 << 62)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    found: list[str] = []

    def digest(path: Path) -> str:
        found.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(digests, "digest_file", digest)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "kernel/net").mkdir(parents=True)
    (root / "kernel/net/a.ko").write_text("a")
    (root / "kernel/b.ko").write_text("b")
    (root / "build").symlink_to("/usr/src/linux")
    return root


def test_a_file_is_read_once_and_a_copy_is_the_same(tmp_path: Path, read: list[str]) -> None:
    iso = tmp_path / "x.iso"
    iso.write_text("iso")
    expected = hashlib.sha256(b"iso").hexdigest()
    assert [file_digest(iso) for _ in range(3)] == [expected] * 3
    assert read == ["x.iso"]
    copy = tmp_path / "y.iso"
    shutil.copyfile(iso, copy)
    assert file_digest(copy) == expected


def test_what_is_written_with_its_old_time_put_back_is_read_again(tmp_path: Path) -> None:
    iso = tmp_path / "x.iso"
    iso.write_text("iso")
    before = iso.stat()
    first = file_digest(iso)
    while iso.stat().st_ctime_ns == before.st_ctime_ns:
        iso.write_text("ISO")
        os.utime(iso, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(iso) == hashlib.sha256(b"ISO").hexdigest() != first


def test_what_changed_just_now_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 1 << 62)
    (tmp_path / "x.iso").write_text("iso")
    for _ in range(2):
        file_digest(tmp_path / "x.iso")
    assert read == ["x.iso", "x.iso"]


def test_a_tree_is_the_same_wherever_and_however_it_was_copied(
    tmp_path: Path, tree: Path, read: list[str]
) -> None:
    first = tree_digest(tree)
    assert tree_digest(tree) == first
    assert sorted(read) == ["a.ko", "b.ko"]
    subprocess.run(["cp", "-r", tree, tmp_path / "copy"], check=True)
    assert tree_digest(tmp_path / "copy") == first


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "kernel/b.ko").write_text("c"),
        lambda root: (root / "kernel/b.ko").chmod(0o600),
        lambda root: (root / "kernel/b.ko").rename(root / "kernel/c.ko"),
        lambda root: (root / "kernel/c").mkdir(),
        lambda root: ((root / "build").unlink(), (root / "build").symlink_to("/usr/src")),
    ],
)
def test_whatever_is_in_a_tree_counts(tree: Path, change: object) -> None:
    first = tree_digest(tree)
    assert callable(change)
    change(tree)
    assert tree_digest(tree) != first


def test_only_so_many_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "REMEMBERED", 3)
    for number in range(6):
        path = tmp_path / f"{number}.iso"
        path.write_text(str(number))
        file_digest(path)
    assert len(list((tmp_path / "cache/store/digests").iterdir())) == 3
