"""The build host's mirrors are in a tree while it is made, and in no image."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.guest.backends.tree import tree_files
from imagekit.installs.stages import fetching

GUEST = ["deb http://deb.example/debian x main", "deb http://deb.example/security x main"]
HERE = ["deb http://mirror.here.example/debian x main"]
THERE = ["deb http://mirror.there.example/debian x main"]
OWN = "deb http://element.example/ x main\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text(fetching.lines_of(GUEST))
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    (lists / "mirror.here.example_debian_dists_x_InRelease").write_text("x")
    (lists / "lock").write_text("")
    return tmp_path


def text(tree: Path) -> str:
    return (tree / "etc/apt/sources.list").read_text()


def test_the_guest_gets_its_sources_back_and_no_list_tells_where_it_was_made(tree: Path) -> None:
    before = text(tree)
    with tree_files(tree) as files:
        fetching.begin(files, GUEST, HERE)
        assert text(tree) == fetching.lines_of([fetching.MARK, *HERE])
        fetching.end(files, GUEST)
    assert text(tree) == before
    assert [path.name for path in (tree / "var/lib/apt/lists").iterdir()] == ["lock"]
    left = b"".join(path.read_bytes() for path in tree.rglob("*") if path.is_file())
    assert b"here.example" not in left


def test_a_tree_of_another_host_fetches_from_this_ones_mirrors(tree: Path) -> None:
    with tree_files(tree) as files:
        fetching.begin(files, GUEST, HERE)
        assert not fetching.renew(files, HERE)
        assert fetching.renew(files, THERE)
        assert not fetching.renew(files, THERE)
    assert text(tree) == fetching.lines_of([fetching.MARK, *THERE])


@pytest.mark.parametrize("fetched", [[], GUEST, HERE])
def test_what_an_element_chose_stays(tree: Path, fetched: list[str]) -> None:
    with tree_files(tree) as files:
        fetching.begin(files, GUEST, fetched)
        (tree / "etc/apt/sources.list").write_text(OWN)
        assert not fetching.renew(files, THERE)
        fetching.end(files, GUEST)
        assert text(tree) == OWN
        fetching.begin(files, GUEST, HERE)
    assert text(tree) == OWN


def test_nothing_is_changed_where_the_host_uses_what_the_guest_will(tree: Path) -> None:
    before = text(tree)
    with tree_files(tree) as files:
        for fetched in ([], GUEST):
            fetching.begin(files, GUEST, fetched)
            assert not fetching.renew(files, fetched)
            assert text(tree) == before
