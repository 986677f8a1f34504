"""Paths with .. on the command line lead where the kernel follows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from imagekit.cli.main import EXIT_CODES, make_app
from imagekit.cli.paths import straight, straighten
from imagekit.errors import ImagekitError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in ("a/b/c", "d/e", "a/d"):
        (root / name).mkdir(parents=True)
    (root / "a/link").symlink_to(root / "d/e")
    (root / "d/up").symlink_to("..")
    return root


@given(parts=st.lists(st.sampled_from(["a", "b", "d", "e", "link", "up", "..", "."]), max_size=7))
def test_a_path_leads_where_the_kernel_follows_it(tree: Path, parts: list[str]) -> None:
    path = tree.joinpath(*parts)
    made = straight(path)
    assert ".." not in made.parts
    if path.exists():
        assert made.samefile(path)


@given(st.lists(st.sampled_from(["a", "b", "no", "x.y"]), min_size=1, max_size=5))
def test_a_path_without_stays_as_it_is_typed(parts: list[str]) -> None:
    assert straight(Path(*parts)) == Path(*parts)


def test_what_is_not_there_yet_is_straight_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert straight(Path("../out/new")) == tmp_path / "out/new"


def test_commands_and_those_of_groups_get_straight_paths(tmp_path: Path) -> None:
    got: list[Path | None] = []
    app, group = typer.Typer(), typer.Typer()

    @app.command("one")
    def one(path: Path, more: Annotated[list[Path] | None, typer.Option()] = None) -> None:
        got.extend([path, *(more or [])])

    @group.command("two")
    def two(path: Annotated[Path | None, typer.Option()] = None) -> None:
        got.append(path)

    app.add_typer(group, name="group")
    straighten(app)
    straighten(app)
    up = f"{tmp_path}/x/../y"
    for argv in (["one", up, "--more", up, "--more", "z"], ["group", "two", "--path", up]):
        assert CliRunner().invoke(app, argv).exit_code == 0
    assert CliRunner().invoke(app, ["group", "two"]).exit_code == 0
    there = tmp_path / "y"
    assert got == [there, there, Path("z"), there, None]


def kinds(of: type[ImagekitError] = ImagekitError) -> set[int]:
    found = {of.exit_code}
    for kind in of.__subclasses__():
        found |= kinds(kind)
    return found


def test_the_help_has_every_exit_code() -> None:
    for code in {0, 2, 130, *kinds()}:
        assert re.search(rf"\b{code}\b", EXIT_CODES), code
    assert "Exit codes:" in CliRunner().invoke(make_app(["plan"]), ["--help"]).output
