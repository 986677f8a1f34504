"""``imagekit cache``: what is listed, and what is removed only when it is asked for."""

from __future__ import annotations

import gc
import hashlib
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagekit.cli.cache import app
from imagekit.errors import SpecError
from imagekit.pipeline import settings
from imagekit.pipeline.store import Made, Store


@pytest.fixture(autouse=True)
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(settings, "settings_files", lambda: ())
    store = Store()
    for number, stage in enumerate(("rootfs", "image")):
        output = store.new_output()
        (output / "file").write_bytes(bytes(1 << 16))
        store.put(f"{number:064x}", output, ["file"], {}, Made(stage, "web01"))
    store.settle()
    del store
    gc.collect()


def said(*args: str) -> str:
    done = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_lists_who_made_what() -> None:
    rows = json.loads(said("list", "--json"))
    assert {(row["guest"], row["stage"]) for row in rows} == {
        ("web01", "rootfs"),
        ("web01", "image"),
    }
    assert all(row["bytes"] >= 1 << 16 and row["used"].endswith("Z") for row in rows)
    assert "web01 rootfs" in said("list") and "fetched" not in said("list")
    for data in (b"a package", b"another"):
        Store().pool.keep(io.BytesIO(data), hashlib.sha256(data).hexdigest())
    assert said("list").splitlines()[-1].endswith("2 fetched files")
    kinds = [row["kind"] for row in json.loads(said("list", "--json"))]
    assert sorted(kinds) == ["fetched", "fetched", "result", "result"]


def test_bare_prune_applies_the_limit_and_empties_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said("prune").startswith("0 results removed")
    monkeypatch.setenv("IMAGEKIT_CACHE_SIZE", "100KiB")
    assert said("prune").startswith("1 results removed")
    assert json.loads(said("size", "--json"))["limit"] == 100 << 10


def test_all_and_keep_remove_more() -> None:
    assert said("prune", "--keep", "100KiB").startswith("1 results removed")
    assert said("prune", "--all").startswith("1 results removed")
    assert json.loads(said("list", "--json")) == []
    assert said("size").startswith("2") and "of at most" in said("size")


@pytest.mark.parametrize("args", [("--keep", "much"), ("--keep", "1GiB", "--all")])
def test_what_makes_no_sense_is_refused_before_anything_goes(args: tuple[str, ...]) -> None:
    with pytest.raises(SpecError):
        CliRunner().invoke(app, ["prune", *args], catch_exceptions=False)
    assert len(json.loads(said("list", "--json"))) == 2
