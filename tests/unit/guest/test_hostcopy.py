"""Trees of the host that are copied into a guest, while their owner puts other files there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.strangers import given_away, needs_root, strangers_folder

from imagekit.errors import GuestError, HostError, SpecError
from imagekit.guest.backends.tree import TreeFiles, tree_files
from imagekit.guest.changes import Copy
from imagekit.guest.hostcopy import copy

SECRET = "the secret of the host"


pytestmark = needs_root


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[TreeFiles]:
    root = tmp_path / "guest"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    with tree_files(root) as files:
        yield files


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


def put(source: Path, guest: TreeFiles) -> None:
    copy(Copy(source, "/srv/x"), guest)


def content(tmp_path: Path) -> dict[str, str]:
    root = tmp_path / "guest/srv"
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_a_tree_is_copied_with_its_links_as_links(
    tmp_path: Path, guest: TreeFiles, secret: Path
) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("x")
    (source / "top").write_text("y")
    (source / "a/link").symlink_to(secret)
    (source / "folder").symlink_to("a")
    put(source, guest)
    assert content(tmp_path) == {"x/a/b/file": "x", "x/top": "y"}
    assert (tmp_path / "guest/srv/x/a/link").readlink() == secret
    assert (tmp_path / "guest/srv/x/folder").readlink() == Path("a")


def test_a_link_of_one_s_own_may_name_what_is_copied(
    tmp_path: Path, guest: TreeFiles, secret: Path
) -> None:
    (tmp_path / "link").symlink_to(secret)
    put(tmp_path / "link", guest)
    assert content(tmp_path) == {"x": SECRET}


@pytest.mark.parametrize("kind", ["pipe", "below"])
def test_only_files_are_copied(tmp_path: Path, guest: TreeFiles, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    with pytest.raises(GuestError, match="only files are copied"):
        put(source / "pipe" if kind == "pipe" else source, guest)


def test_directories_without_an_end_are_refused(tmp_path: Path, guest: TreeFiles) -> None:
    path = tmp_path / "source"
    for _ in range(150):
        path = path / "d"
    path.mkdir(parents=True)
    with pytest.raises(GuestError, match="in each other"):
        put(tmp_path / "source", guest)


@pytest.mark.parametrize("name", ["file", "folder/file"])
@pytest.mark.parametrize("kind", ["link", "second name"])
def test_nothing_of_the_host_gets_into_the_guest_by_a_stranger_s_names(
    tmp_path: Path, guest: TreeFiles, secret: Path, name: str, kind: str
) -> None:
    theirs = strangers_folder(tmp_path / "theirs")
    (theirs / "folder").mkdir()
    given_away(theirs / "folder")
    if kind == "link":
        (theirs / name).symlink_to(secret)
    else:
        os.link(secret, theirs / name)
    if kind == "link":
        put(theirs, guest)
        assert content(tmp_path) == {}
    else:
        with pytest.raises(SpecError, match="has 2 names"):
            put(theirs, guest)
    with pytest.raises(SpecError):
        put(theirs / name, guest)
    assert SECRET not in content(tmp_path).values()


def file_becomes_a_link(source: Path, secret: Path) -> None:
    (source / "b").unlink()
    (source / "b").symlink_to(secret)


def directory_becomes_a_link(source: Path, secret: Path) -> None:
    (source / "c").rename(source.with_name("moved"))
    (source / "c").symlink_to(secret.parent)


@pytest.mark.parametrize("swap", [file_becomes_a_link, directory_becomes_a_link])
def test_what_is_swapped_after_it_was_looked_at_is_not_read(
    tmp_path: Path,
    guest: TreeFiles,
    secret: Path,
    swap: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "source"
    (source / "c").mkdir(parents=True)
    for name in ("a", "b", "c/secret"):
        (source / name).write_text("theirs")
    write = guest.write
    looked: list[str] = []

    def swapping(path: str, *args: Any, **options: Any) -> str:
        if not looked:
            swap(source, secret)
        looked.append(path)
        return write(path, *args, **options)

    monkeypatch.setattr(guest, "write", swapping)
    with contextlib.suppress(SpecError, HostError):
        put(source, guest)
    assert "x/a" in content(tmp_path)
    assert SECRET not in content(tmp_path).values()
