"""Changes to a tree: they land in the tree, whatever links it holds, with owners of the guest."""

from __future__ import annotations

import os
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.local_tree import LocalTree

from imagekit.errors import GuestError
from imagekit.guest.apply import apply
from imagekit.guest.backends import tree_child
from imagekit.guest.backends.tree import TreeFiles, tree_files
from imagekit.guest.changes import (
    AddUser,
    Change,
    Copy,
    ForgetIdentity,
    Link,
    RunScript,
    SetHash,
    SshKey,
    Write,
)
from imagekit.guest.sshkeys import PublicKey

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
KEY = "ssh-ed25519 AAAA ann"
KEYS = (PublicKey(KEY, KEY),)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/skel").mkdir(parents=True)
    (root / "etc/skel/.profile").write_text("skeleton")
    (root / "etc/skel/.config").symlink_to("/nowhere")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/group").write_text("root:x:0:\nsudo:x:27:\nstaff:x:50:\n")
    (root / "usr/lib").mkdir(parents=True)
    (root / "root").mkdir()
    (root / "lib").symlink_to("usr/lib")
    return root


@pytest.fixture
def files(tree: Path) -> Iterator[TreeFiles]:
    """The tree by the process that serves it."""
    with tree_files(tree) as opened:
        yield opened


def write(path: str, text: str = "x", owner: str = "root:root") -> Write:
    return Write(path, text.encode(), 0o644, owner)


def test_an_absolute_link_in_the_tree_leads_into_the_tree(tree: Path) -> None:
    (tree / "evil").symlink_to("/etc")
    assert LocalTree(tree).resolve("/evil/imagekit-escape/file") == "/etc/imagekit-escape/file"


@pytest.mark.parametrize("target", ["../../../../etc", "/etc/../../.."])
def test_a_link_that_climbs_out_of_the_tree_is_an_error(tree: Path, target: str) -> None:
    (tree / "evil").symlink_to(target)
    with pytest.raises(GuestError, match="leads out of the guest"):
        LocalTree(tree).resolve("/evil/imagekit-escape/file")


LINKS = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=2),
        st.lists(st.sampled_from(["a", "b", "c", "..", ".", "/"]), min_size=1, max_size=5),
    ),
    max_size=6,
)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "aa", "..", "."]), min_size=1, max_size=6)


@needs_root
@settings(max_examples=300, deadline=None)
@given(LINKS, PATHS)
def test_no_arrangement_of_links_leads_out_of_the_tree(
    tmp_path_factory: pytest.TempPathFactory,
    links: list[tuple[str, list[str]]],
    path: list[str],
) -> None:
    root = tmp_path_factory.mktemp("links") / "deep/tree"
    root.mkdir(parents=True)
    for name, target in links:
        if not os.path.lexists(root / name):
            (root / name).symlink_to("/".join(target))
    files = LocalTree(root)
    try:
        real = files.write("/" + "/".join(path) + "/file", b"x")
    except GuestError:
        return
    finally:
        assert set(root.parent.iterdir()) == {root}
    place = root / real.lstrip("/")
    assert place.read_bytes() == b"x" and place.resolve() == place


@settings(max_examples=200, deadline=None)
@given(LINKS, PATHS)
def test_the_child_itself_follows_no_link(
    tmp_path_factory: pytest.TempPathFactory,
    links: list[tuple[str, list[str]]],
    path: list[str],
) -> None:
    """Whatever a name given to it leads to: without links there is one place it can be."""
    root = tmp_path_factory.mktemp("links") / "tree"
    root.mkdir()
    for name, target in links:
        if not os.path.lexists(root / name):
            (root / name).symlink_to("/".join(target))
    child = tree_child.Tree(str(root))
    name = "/" + "/".join(path)
    try:
        child.mkdir(name)
        child.create(f"{name}/file", b"x")
    except (OSError, tree_child.TreeError):
        assert set(root.parent.iterdir()) == {root}
        return
    plain = root.joinpath(*[part for part in path if part != "."], "file")
    assert plain.read_bytes() == b"x" and plain.resolve() == plain


def test_a_link_loop_is_an_error(tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(GuestError, match="links"):
        LocalTree(tree).resolve("/a/file")


def test_a_pipe_is_neither_waited_for_nor_read(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(tree_child.TreeError):
        tree_child.Tree(str(tree)).read("/pipe", 10, 0)


@needs_root
def test_a_link_at_the_target_is_replaced_and_not_followed(
    tree: Path, tmp_path: Path, files: TreeFiles
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (tree / "etc/motd").symlink_to(outside)
    (tree / "etc/dir").symlink_to("skel")
    apply(write("/etc/motd", "guest"), files)
    apply(Link("/etc/dir", "elsewhere"), files)
    assert outside.read_text() == "host"
    assert (tree / "etc/motd").read_text() == "guest"
    assert not (tree / "etc/motd").is_symlink()
    assert str((tree / "etc/dir").readlink()) == "elsewhere"
    assert sorted(p.name for p in (tree / "etc/skel").iterdir()) == [".config", ".profile"]


@needs_root
def test_a_user_gets_group_home_hash_and_keys(tree: Path, files: TreeFiles) -> None:
    (tree / "home/ann").mkdir(parents=True)
    changes: list[Change] = [
        AddUser("ann", "Ann", "/bin/sh", ("sudo",)),
        SetHash("ann", "$y$j9T$abc$defghijk"),
        SshKey("ann", KEYS),
        SetHash("root", "$6$salt$hash1234"),
        write("/home/ann/note", owner="ann"),
        AddUser("first.last"),
        AddUser("staff"),
    ]
    for change in changes:
        apply(change, files)
    passwd = (tree / "etc/passwd").read_text()
    assert "ann:x:1000:1000:Ann:/home/ann:/bin/sh\n" in passwd
    assert "first.last:x:1001:1001::/home/first.last:/bin/bash\n" in passwd
    assert "staff:x:1002:50:" in passwd, "a group of that name is the user's"
    shadow = (tree / "etc/shadow").read_text()
    assert "ann:$y$j9T$abc$defghijk:" in shadow
    assert "root:$6$salt$hash1234:" in shadow
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o640
    groups = (tree / "etc/group").read_text()
    assert "sudo:x:27:ann\n" in groups and groups.count("staff:") == 1
    keys = tree / "home/ann/.ssh/authorized_keys"
    assert keys.read_text() == f"{KEY}\n"
    assert (keys.stat().st_uid, keys.stat().st_mode & 0o777) == (1000, 0o600)
    assert keys.parent.stat().st_mode & 0o777 == 0o700
    assert (tree / "home/ann").stat().st_mode & 0o777 == 0o700
    assert (tree / "home/ann/.profile").stat().st_uid == 1000
    link = tree / "home/ann/.config"
    assert str(link.readlink()) == "/nowhere" and link.lstat().st_uid == 1000
    assert (tree / "home/ann/note").stat().st_uid == 1000


@needs_root
def test_an_account_that_is_there_is_made_like_the_spec_and_keeps_its_files(
    tree: Path, files: TreeFiles
) -> None:
    with (tree / "etc/passwd").open("a") as stream:
        stream.write("ann:x:1234:50:Old:/srv/ann:/bin/false\ndb:x:90:50:Db:/var/db:/bin/false\n")
    for home in ("srv/ann", "var/db"):
        (tree / home).mkdir(parents=True, mode=0o755)
        (tree / home / "mine").write_text("kept")
    for name in ("ann", "db"):
        apply(AddUser(name, "New", "/bin/zsh", ("sudo",)), files)
        apply(AddUser(name, "New", "/bin/zsh", ("sudo",)), files)
    lines = (tree / "etc/passwd").read_text().splitlines()
    assert lines[1:] == [
        "ann:x:1234:50:New:/srv/ann:/bin/zsh",
        "db:x:90:50:Db:/var/db:/bin/false",
    ]
    assert "sudo:x:27:ann,db\n" in (tree / "etc/group").read_text()
    for home, mode in (("srv/ann", 0o700), ("var/db", 0o755)):
        assert (tree / home).stat().st_mode & 0o777 == mode
        assert [p.name for p in (tree / home).iterdir()] == ["mine"]
        assert (tree / home / "mine").stat().st_uid == 0


@given(st.text(string.printable, min_size=1, max_size=8))
def test_an_unknown_owner_is_an_error(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("owner")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    if name.split(":")[0].isdigit() or name.split(":")[0] in ("root", "0"):
        return
    with pytest.raises(GuestError, match="no user"):
        apply(write("/file", owner=name), LocalTree(root))
    assert not (root / "file").exists()


@needs_root
def test_a_copy_is_whole_and_keeps_setuid_after_its_owner(
    tree: Path, tmp_path: Path, files: TreeFiles
) -> None:
    data = os.urandom((5 << 19) + 3)
    (tmp_path / "program").write_bytes(data)
    apply(Copy(tmp_path / "program", "/usr/bin/program", 0o4755, "50:sudo"), files)
    made = tree / "usr/bin/program"
    status = made.stat()
    assert made.read_bytes() == data
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (50, 27, 0o4755)
    assert files.download("/usr/bin/program", tmp_path / "back", 1 << 30)
    assert (tmp_path / "back").read_bytes() == data


@needs_root
def test_identity_is_removed_and_no_link_followed(
    tree: Path, tmp_path: Path, files: TreeFiles
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ssh_host_rsa_key").write_text("host")
    (tree / "etc/ssh").symlink_to(outside)
    for name in ("etc/machine-id", "etc/shadow-", "var/lib/dhclient/a.lease"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("0123\n")
    (tree / "var/log/journal/0123").mkdir(parents=True)
    apply(ForgetIdentity(), files)
    assert (outside / "ssh_host_rsa_key").exists()
    assert (tree / "etc/machine-id").read_bytes() == b""
    assert not (tree / "etc/shadow-").exists()
    assert list((tree / "var/lib/dhclient").iterdir()) == []
    assert list((tree / "var/log/journal").iterdir()) == []


@needs_root
def test_what_is_mounted_over_at_boot_is_refused_and_nothing_is_left(
    tree: Path, files: TreeFiles
) -> None:
    (tree / "run").mkdir()
    with pytest.raises(GuestError, match="mounted over at boot"):
        apply(write("/run/x"), files)
    with pytest.raises(GuestError, match="no program can be run"):
        apply(RunScript("x", b"#!/bin/sh\n"), files)
    with pytest.raises(GuestError, match="is a directory"):
        apply(write("/etc"), files)
    assert list((tree / "run").iterdir()) == []
    assert not [p for p in tree.rglob("*") if p.name.startswith(".imagekit")]


def test_a_tree_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with (
        tree_files(tmp_path / "none") as files,
        pytest.raises(GuestError, match="No such file") as caught,
    ):
        files.lstat("/etc")
    assert "\n" not in caught.value.what
