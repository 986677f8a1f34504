"""apt's files of a tree whose programs were hostile: nothing of the host is read or changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagekit.errors import GuestError
from imagekit.guest.backends.tree import tree_files
from imagekit.installs.stages.aptfiles import fetch_lists, settle

WANTED = ["deb http://deb.example/debian bookworm main"]
SECRET = "root:secret\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files of the host that the links of a tree name."""
    directory = tmp_path / "outside"
    directory.mkdir()
    for name in ("shadow", "ssh_host_rsa_key", "evil.list", "x_dists_y_InRelease"):
        (directory / name).write_text(SECRET)
    return directory


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc/apt/sources.list.d").mkdir(parents=True)
    (tree / "etc/ssh").mkdir()
    for name in ("lists", "archives"):
        (tree / "var" / name).mkdir(parents=True)
    (tree / "etc/apt/sources.list").write_text("deb http://old.example/ bookworm main\n\n")
    return tree


def settled(
    tree: Path, wanted: list[str] = WANTED, *, locked: bool = False, outside: bool = True
) -> list[str]:
    with tree_files(tree) as files:
        return settle(files, wanted, locked=locked, downloaded_outside=outside)


def unchanged(outside: Path) -> bool:
    return sorted(p.name for p in outside.iterdir()) == [
        *("evil.list", "shadow", "ssh_host_rsa_key", "x_dists_y_InRelease"),
    ] and all(p.read_text() == SECRET for p in outside.iterdir())


def test_the_guest_keeps_the_sources_of_the_build_alone(tree: Path) -> None:
    parts = tree / "etc/apt/sources.list.d"
    (parts / "0000sources.list").write_text("deb http://user:secret@mirror.example/ x main\n")
    (parts / "directory").mkdir()
    (tree / "etc/ssh/ssh_host_rsa_key").write_text("key")
    (tree / "etc/ssh/ssh_config").write_text("config")
    assert settled(tree) == WANTED
    sources = tree / "etc/apt/sources.list"
    assert sources.read_text() == f"{WANTED[0]}\n"
    assert sources.stat().st_mode & 0o7777 == 0o644
    assert list(parts.iterdir()) == []
    assert [p.name for p in (tree / "etc/ssh").iterdir()] == ["ssh_config"]


def test_the_sources_that_a_tool_chose_stay_unless_a_lock_has_none(tree: Path) -> None:
    assert settled(tree, []) == ["deb http://old.example/ bookworm main"]
    assert settled(tree, [], locked=True) == []
    (tree / "etc/apt/sources.list").unlink()
    assert settled(tree, []) == []


@pytest.mark.parametrize("relative", [False, True])
def test_a_link_in_place_of_the_sources_is_replaced_and_not_written_through(
    tree: Path, outside: Path, relative: bool
) -> None:
    target = outside / "shadow"
    sources = tree / "etc/apt/sources.list"
    sources.unlink()
    sources.symlink_to("../" * 12 + str(target).lstrip("/") if relative else target)
    assert settled(tree) == WANTED
    assert not sources.is_symlink()
    assert unchanged(outside)


def test_what_a_link_names_on_the_host_is_not_read_as_sources(tree: Path, outside: Path) -> None:
    sources = tree / "etc/apt/sources.list"
    sources.unlink()
    sources.symlink_to(outside / "shadow")
    assert settled(tree, []) == []


@pytest.mark.parametrize("name", ["etc/apt/sources.list.d", "etc/ssh"])
def test_a_directory_of_the_host_is_not_emptied_by_a_link(
    tree: Path, outside: Path, name: str
) -> None:
    (tree / name).rmdir()
    (tree / name).symlink_to(outside)
    settled(tree)
    assert unchanged(outside)


def test_a_link_to_a_directory_above_does_not_lead_out(tree: Path, outside: Path) -> None:
    (tree / "etc").rename(tree / "moved")
    (tree / "etc").symlink_to(outside)
    (outside / "apt").mkdir()
    (outside / "apt/sources.list").write_text(SECRET)
    settled(tree)
    assert (outside / "apt/sources.list").read_text() == SECRET
    assert (outside / "ssh_host_rsa_key").exists()


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_in_place_of_the_sources_is_refused(tree: Path, kind: str) -> None:
    sources = tree / "etc/apt/sources.list"
    sources.unlink()
    if kind == "pipe":
        os.mkfifo(sources)  # opening one would wait for ever
    else:
        sources.mkdir()
    with pytest.raises(GuestError):
        settled(tree)


def test_links_in_place_of_host_keys_are_removed_themselves(tree: Path, outside: Path) -> None:
    (tree / "etc/ssh/ssh_host_ed25519_key").symlink_to(outside / "ssh_host_rsa_key")
    (tree / "etc/ssh/ssh_host_dir").symlink_to(outside)
    settled(tree)
    assert list((tree / "etc/ssh").iterdir()) == []
    assert unchanged(outside)


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, whose files have other owners")
def test_directories_of_the_hosts_apt_user_are_roots_and_links_stay_as_they_are(
    tree: Path, outside: Path
) -> None:
    real = tree / "var/lib/apt/lists/partial"
    real.mkdir(parents=True)
    os.chown(real, 42, 0)
    other = tree / "var/cache/apt/archives"
    other.mkdir(parents=True)
    os.chown(outside, 42, 0)
    (other / "partial").symlink_to(outside)
    settled(tree, outside=False)
    assert real.stat().st_uid == 42
    settled(tree)
    assert (real.stat().st_uid, outside.stat().st_uid) == (0, 42)


def test_only_real_lists_are_taken(tmp_path: Path, outside: Path) -> None:
    work = tmp_path / "work"
    lists, target = work / "lists", tmp_path / "target"
    target.mkdir()
    lists.mkdir(parents=True)
    (lists / "mirror_dists_bookworm_InRelease").write_text("real")
    (lists / "planted").write_text("no list")
    (lists / "one_dists_two_Release").symlink_to(outside / "shadow")
    (lists / "one_dists_three_Release").mkdir()
    os.mkfifo(lists / "one_dists_four_Release")
    with tree_files(work) as files:
        fetch_lists(files, target)
    assert [p.name for p in target.iterdir()] == ["mirror_dists_bookworm_InRelease"]
    assert (target / "mirror_dists_bookworm_InRelease").read_text() == "real"


def test_a_link_in_place_of_the_lists_leads_to_nothing_of_the_host(
    tmp_path: Path, outside: Path
) -> None:
    work, target = tmp_path / "work", tmp_path / "target"
    work.mkdir()
    target.mkdir()
    (work / "lists").symlink_to(outside)
    with tree_files(work) as files:
        fetch_lists(files, target)
    assert list(target.iterdir()) == []
