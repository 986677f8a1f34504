"""Changes to a tree: they land in the tree, whatever links it holds, with owners of the guest."""

from __future__ import annotations

import base64
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.installs.tree_child import TreeError, apply, resolve_parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/skel").mkdir(parents=True)
    (root / "etc/skel/.profile").write_text("skeleton")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (root / "etc/group").write_text("root:x:0:\nsudo:x:27:\n")
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    return root


def write(path: str, text: str = "x", **more: Any) -> dict[str, Any]:
    data = base64.b64encode(text.encode()).decode()
    return {"op": "write", "path": path, "data": data, "mode": 0o644, **more}


def as_root() -> bool:
    return os.geteuid() == 0


@pytest.mark.parametrize("target", ["/etc", "../../../../etc", "/", "/etc/../../.."])
def test_an_absolute_link_in_the_tree_leads_into_the_tree(
    tree: Path, tmp_path: Path, target: str
) -> None:
    (tree / "evil").symlink_to(target)
    real = resolve_parent(tree, "/evil/imagekit-escape/file")
    assert tree in (real, *real.parents)
    assert not Path("/etc/imagekit-escape").exists()
    assert not Path("/imagekit-escape").exists()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abc", min_size=1, max_size=2),
            st.lists(st.sampled_from(["a", "b", "c", "..", ".", "/"]), min_size=1, max_size=5),
        ),
        max_size=6,
    ),
    st.lists(st.sampled_from(["a", "b", "c", "aa", "..", "."]), min_size=1, max_size=6),
)
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
    try:
        real = resolve_parent(root, "/" + "/".join(path) + "/file")
    except (TreeError, OSError):
        return
    assert root in (real, *real.parents)
    assert real.resolve() == real
    assert set((root.parent).iterdir()) == {root}


def test_a_link_loop_is_an_error(tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(TreeError, match="links"):
        resolve_parent(tree, "/a/file")


@pytest.mark.skipif(not as_root(), reason="changing owners needs root")
def test_a_link_at_the_target_is_replaced_and_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (tree / "etc/motd").symlink_to(outside)
    apply(tree, [write("/etc/motd", "guest")])
    assert outside.read_text() == "host"
    assert (tree / "etc/motd").read_text() == "guest"
    assert not (tree / "etc/motd").is_symlink()


@pytest.mark.skipif(not as_root(), reason="changing owners needs root")
def test_a_user_gets_group_home_hash_and_keys(tree: Path) -> None:
    user = {"op": "user", "name": "ann", "gecos": "Ann", "shell": "/bin/sh"}
    apply(
        tree,
        [
            {**user, "groups": ["sudo"], "hash": "$y$j9T$abc$defghijk"},
            {"op": "keys", "name": "ann", "keys": ["ssh-ed25519 AAAA ann"]},
            {"op": "hash", "name": "root", "hash": "$6$salt$hash1234"},
            write("/home/ann/note", owner="ann"),
        ],
    )
    assert "ann:x:1000:1000:Ann:/home/ann:/bin/sh" in (tree / "etc/passwd").read_text()
    shadow = (tree / "etc/shadow").read_text()
    assert "ann:$y$j9T$abc$defghijk:" in shadow
    assert "root:$6$salt$hash1234:" in shadow
    assert "sudo:x:27:ann" in (tree / "etc/group").read_text()
    keys = tree / "home/ann/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA ann\n"
    assert (keys.stat().st_uid, keys.stat().st_mode & 0o777) == (1000, 0o600)
    assert keys.parent.stat().st_mode & 0o777 == 0o700
    assert (tree / "home/ann/.profile").stat().st_uid == 1000
    assert (tree / "home/ann/note").stat().st_uid == 1000


@given(st.text(string.printable, min_size=1, max_size=8))
def test_an_unknown_owner_is_an_error(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("owner")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    if name.split(":")[0].isdigit() or name.split(":")[0] in ("root", "0"):
        return
    with pytest.raises(TreeError, match="no user"):
        apply(root, [write("/file", owner=name)])
    assert not (root / "file").exists()


def test_what_depends_on_a_missing_file_is_left_out(tree: Path) -> None:
    apply(tree, [write("/etc/x", if_exists="/usr/sbin/sshd")])
    assert not (tree / "etc/x").exists()


def test_removal_follows_no_link(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ssh_host_key").write_text("host")
    (tree / "etc/ssh").symlink_to(outside)
    apply(tree, [{"op": "remove", "path": "/etc/ssh/ssh_host_*"}])
    assert (outside / "ssh_host_key").exists()
