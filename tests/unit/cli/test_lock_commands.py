"""``imagekit lock``: what it ends with, and what it says of packages that are not in the lock."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.wrong_inputs import SPEC, run

from imagekit.spec.lock import Lock, lock_text

SHA = "a" * 64


def write_lock(path: Path, *names: str) -> str:
    row = {"version": "1", "architecture": "amd64", "sha256": SHA, "size": 7}
    packages = [{"name": n, "path": f"pool/{n}_1.deb", **row} for n in names]
    value = {"name": "web01", "spec_sha256": SHA, "method": "debootstrap", "packages": packages}
    path.write_text(lock_text(Lock.model_validate({**value, "source_date_epoch": 1})))
    return path.name


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_difference_of_locks_is_an_exit_code_as_of_diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = write_lock(tmp_path / "old", "apt"), write_lock(tmp_path / "new", "apt", "bc")
    assert run(["lock", "diff", old, new, *json], tmp_path).exit_code == 1
    same = run(["lock", "diff", old, old, *json], tmp_path)
    assert (same.exit_code, same.message) == (0, "[]" if json else "nothing changed")


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("nginxx", "so there is nothing to update; did you mean nginx?", "guest.yaml:3:32"),
        ("new.lock", "'new.lock' is not the name of a package", "--output"),
        ("./spec.yaml", "'./spec.yaml' is not the name of a package", "--lock"),
    ],
)
def test_what_is_not_in_the_lock_cannot_be_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    keyring = "mirror: http://mirror.example/debian, keyring: key.gpg, suite"
    (tmp_path / "key.gpg").touch()
    (tmp_path / "guest.yaml").write_text(SPEC.replace("suite", keyring))
    lock = write_lock(tmp_path / "web01.lock", "nginx")
    before = (tmp_path / lock).read_bytes()
    said = run(["lock", "update", name, "--spec", "guest.yaml"], tmp_path)
    assert said.exit_code == 3
    assert what in said.message and hint in said.message.partition("hint:")[2]
    assert (tmp_path / lock).read_bytes() == before
