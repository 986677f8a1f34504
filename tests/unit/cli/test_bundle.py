"""``imagekit bundle``: its commands, and the one that need not be named."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagekit.cli.main import make_app


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def said(*words: str) -> str:
    done = CliRunner().invoke(make_app(["bundle"]), ["bundle", *words])
    assert done.exit_code != 0
    return f"{done.exception} {done.output}"


@pytest.mark.parametrize(
    "words", [("create", "web9"), ("web9",), ("-o", "x", "web9"), ("--image", "web9")]
)
def test_what_is_no_command_is_something_to_bundle(words: tuple[str, ...]) -> None:
    assert "there is no build and no guest web9" in said(*words)


@pytest.mark.parametrize("name", ["verify", "create"])
def test_a_guest_may_be_called_as_a_command_is(name: str) -> None:
    assert f"there is no build and no guest {name}" in said("create", name)


def test_verify_reads_a_bundle_and_bundles_nothing(tmp_path: Path) -> None:
    (tmp_path / "web.bundle").write_bytes(b"no bundle at all")
    text = said("verify", "web.bundle")
    assert "no guest" not in text and "web.bundle" in text
    assert "Missing argument" in said("verify")


def test_one_thing_is_bundled_at_a_time() -> None:
    assert "unexpected extra argument" in said("web1", "web2")
