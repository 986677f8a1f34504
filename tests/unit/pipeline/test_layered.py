"""A store in front of a remote one: what is shared is used if it is right, and never needed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.damage import flip

from imagekit.disk.extents import copy_sparse, data_size, sha256_sparse
from imagekit.errors import SpecError
from imagekit.pipeline import settings
from imagekit.pipeline.configured import configured_store
from imagekit.pipeline.directory_remote import DESCRIPTION, PART, DirectoryRemote
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.layered import LayeredStore
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.result_store import ResultStore, SharedResult
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.pipeline.store import Store

MIB = 1 << 20


class Disk(Stage):
    """A sparse disk with some data in the middle."""

    name = "disk"
    title = "making a disk"
    makes = ("disk.raw", "facts.json")

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, run: StageRun) -> None:
        with (run.output / "disk.raw").open("wb") as stream:
            stream.truncate(64 * MIB)
            stream.seek(32 * MIB)
            stream.write(b"data" * 4096)
        (run.output / "facts.json").write_text("{}")


class Converted(Stage):
    """Cheaper made than moved."""

    name = "converted"
    title = "converting"
    needs = ("disk.raw",)
    makes = ("disk.other",)
    shared = False

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, run: StageRun) -> None:
        (run.output / "disk.other").write_bytes(run.inputs["disk.raw"].read_bytes()[-16:])


def plan() -> Plan:
    targets = [Target("disk.raw", "disk.raw", "disk"), Target("disk.other", "disk.other", "disk")]
    return make_plan([Disk(), Converted()], targets)


class Machine:
    """A machine with a store of its own that builds, and remembers what it was warned of."""

    def __init__(self, place: Path, remote: DirectoryRemote | Slow | None) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.events = Events([self._take])
        self.local = Store(place, sha256_sparse)
        self.store: ResultStore = self.local
        if remote is not None:
            self.store = LayeredStore(self.local, remote, self.events, patience=5)

    def _take(self, event: Event) -> None:
        if event.kind == "warning":
            self.warnings.append(event.fields["text"])
        if event.kind == "note":
            self.notes.append(event.fields["text"])

    def build(self, *, fresh: bool = False) -> dict[str, StageResult]:
        results = execute(
            plan(), self.store, self.events, guest="g", fresh=fresh, digest=sha256_sparse
        )
        disk = results["disk"].entry.files["disk.raw"]
        assert disk.stat().st_size == 64 * MIB
        assert disk.read_bytes()[32 * MIB :].startswith(b"data" * 4096)
        assert data_size(disk) < MIB
        return results


class Slow:
    """A remote whose every answer waits until the test is over."""

    name = "slow"

    def __init__(self) -> None:
        self.over = threading.Event()

    def look_up(self, key: str) -> SharedResult | None:
        self.over.wait()
        return None

    def fetch(self, result: SharedResult, names: Sequence[str], target: Path) -> None:
        self.over.wait()

    def publish(self, result: SharedResult, directory: Path, *, replace: bool) -> None:
        self.over.wait()

    def discard(self, key: str) -> None:
        self.over.wait()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(settings, "settings_files", lambda: (tmp_path / "imagekit.toml",))


@pytest.fixture
def remote(tmp_path: Path) -> DirectoryRemote:
    (tmp_path / "remote").mkdir(mode=0o700)
    return DirectoryRemote(tmp_path / "remote", copy_sparse)


def shared(tmp_path: Path) -> Path:
    """The only result in the remote directory."""
    (found,) = (tmp_path / "remote").glob("??/*")
    return found


def cached(results: dict[str, StageResult]) -> dict[str, bool]:
    return {name: result.cached for name, result in results.items()}


def test_what_one_machine_made_another_one_need_not_make(
    tmp_path: Path, remote: DirectoryRemote
) -> None:
    Machine(tmp_path / "first", remote).build()
    second = Machine(tmp_path / "second", remote)
    assert cached(second.build()) == {"disk": True, "converted": False}
    assert second.warnings == []
    assert second.notes == [f"disk: fetched from {tmp_path}/remote"]
    # From then on it has it itself.
    alone = Machine(tmp_path / "second", None)
    assert cached(alone.build()) == {"disk": True, "converted": True}


def test_a_result_that_is_cheaper_made_than_moved_stays_here(
    tmp_path: Path, remote: DirectoryRemote
) -> None:
    Machine(tmp_path / "first", remote).build()
    files = {path.name for path in (tmp_path / "remote").rglob("*") if path.is_file()}
    assert files == {"disk.raw", "facts.json", DESCRIPTION}
    assert data_size(shared(tmp_path) / "disk.raw") < MIB


def test_results_made_anew_replace_those_that_others_have(
    tmp_path: Path, remote: DirectoryRemote
) -> None:
    Machine(tmp_path / "first", remote).build()
    before = (shared(tmp_path) / "disk.raw").stat().st_ino
    Machine(tmp_path / "second", remote).build()
    assert (shared(tmp_path) / "disk.raw").stat().st_ino == before
    Machine(tmp_path / "third", remote).build(fresh=True)
    assert (shared(tmp_path) / "disk.raw").stat().st_ino != before


def described(text: str) -> Callable[[Path], None]:
    def apply(result: Path) -> None:
        (result / DESCRIPTION).write_text(text)

    return apply


def lie(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(result: Path) -> None:
        value = json.loads((result / DESCRIPTION).read_text())
        change(value)
        (result / DESCRIPTION).write_text(json.dumps(value))

    return apply


def replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(result: Path) -> None:
        (result / "disk.raw").unlink()
        make(result / "disk.raw")

    return apply


LIES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda result: flip(result / "disk.raw"),
    "another size": lambda result: os.truncate(result / "disk.raw", MIB),
    "a missing file": replaced(lambda path: None),
    "a link out": replaced(lambda path: path.symlink_to("/etc/passwd")),
    "a fifo": replaced(lambda path: os.mkfifo(path)),
    "a directory": replaced(lambda path: path.mkdir()),
    "writable for all": lambda result: (result / "disk.raw").chmod(0o666),
    "a folder writable for all": lambda result: result.chmod(0o777),
    "no description": lambda result: (result / DESCRIPTION).unlink(),
    "no json": described("{"),
    "a long description": described(" " * 2 * MIB),
    "nested json": described("[" * 100_000),
    "another key": lie(lambda value: value.update(key="0" * 64)),
    "another version": lie(lambda value: value.update(version=2)),
    "a path": lie(lambda value: value["files"].update({"../x": value["files"]["disk.raw"]})),
    "a negative size": lie(lambda value: value["files"]["disk.raw"].update(size=-1)),
    "no digest": lie(lambda value: value["files"]["disk.raw"].update(sha256=None)),
    "a wrong digest": lie(lambda value: value["files"]["disk.raw"].update(sha256="0" * 64)),
}


@pytest.mark.parametrize("what", LIES)
def test_a_remote_that_lies_is_not_believed_and_put_right(
    tmp_path: Path, remote: DirectoryRemote, what: str
) -> None:
    Machine(tmp_path / "first", remote).build()
    LIES[what](shared(tmp_path))
    second = Machine(tmp_path / "second", remote)
    assert cached(second.build()) == {"disk": False, "converted": False}
    assert len(second.warnings) == 1 and str(tmp_path / "remote") in second.warnings[0]
    third = Machine(tmp_path / "third", remote)
    assert cached(third.build())["disk"], "what was damaged was published anew"
    assert third.warnings == []


def test_an_incomplete_result_is_not_used(tmp_path: Path, remote: DirectoryRemote) -> None:
    Machine(tmp_path / "first", remote).build()
    lie(lambda value: value["files"].pop("facts.json"))(shared(tmp_path))
    second = Machine(tmp_path / "second", remote)
    assert cached(second.build())["disk"] is False
    assert "incomplete" in second.warnings[0]


@pytest.mark.parametrize("what", ["missing", "writable for all", "a file"])
def test_a_remote_that_cannot_be_used_is_warned_of_once(tmp_path: Path, what: str) -> None:
    place = tmp_path / "remote"
    if what == "a file":
        place.touch()
    elif what != "missing":
        place.mkdir()
        place.chmod(0o777)
    machine = Machine(tmp_path / "first", DirectoryRemote(place, copy_sparse))
    assert cached(machine.build()) == {"disk": False, "converted": False}
    assert len(machine.warnings) == 1 and str(place) in machine.warnings[0]
    assert what == "a file" or list(tmp_path.glob("remote/*")) == []


def test_a_remote_that_does_not_answer_is_left_alone(tmp_path: Path) -> None:
    remote = Slow()
    machine = Machine(tmp_path / "first", None)
    machine.store = LayeredStore(machine.local, remote, machine.events, patience=0.1)
    try:
        machine.build()
        assert machine.warnings == ["the remote store slow is not used: no answer in 0 s"]
    finally:
        remote.over.set()


def test_a_result_that_could_be_fetched_only_slowly_is_made(
    tmp_path: Path, remote: DirectoryRemote
) -> None:
    Machine(tmp_path / "first", remote).build()
    over = threading.Event()

    class Stuck(DirectoryRemote):
        def fetch(self, result: SharedResult, names: Sequence[str], target: Path) -> None:
            over.wait()

    stuck = Stuck(tmp_path / "remote", copy_sparse)
    machine = Machine(tmp_path / "second", None)
    machine.store = LayeredStore(machine.local, stuck, machine.events, patience=0.1)
    # A deadline by size would be 16 s for 64 MiB.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagekit.pipeline.layered.SLOWEST", 1 << 40)
        try:
            assert cached(machine.build())["disk"] is False
        finally:
            over.set()
    assert "no answer" in machine.warnings[0]
    assert list((tmp_path / "second/tmp").iterdir()) == []


def test_what_is_being_written_is_no_result_and_goes_when_nobody_writes_it(
    tmp_path: Path, remote: DirectoryRemote
) -> None:
    for name, age in (("old", 2 * 24 * 3600), ("new", 0)):
        part = tmp_path / "remote" / f"{PART}{name}"
        part.mkdir()
        (part / "disk.raw").write_bytes(b"half")
        moment = part.stat().st_mtime - age
        os.utime(part, (moment, moment))
    Machine(tmp_path / "first", remote).build()
    left = {path.name for path in (tmp_path / "remote").glob(f"{PART}*")}
    assert left == {f"{PART}new"}


def test_a_disk_that_changes_while_it_is_published_is_withdrawn(tmp_path: Path) -> None:
    class Changing(DirectoryRemote):
        """The guest of a delivered disk, which is the same file, starts meanwhile."""

        def publish(self, result: SharedResult, directory: Path, *, replace: bool) -> None:
            super().publish(result, directory, replace=replace)
            with (directory / "disk.raw").open("r+b") as stream:
                stream.write(b"boot")

    (tmp_path / "remote").mkdir(mode=0o700)
    machine = Machine(tmp_path / "first", Changing(tmp_path / "remote", copy_sparse))
    execute(plan(), machine.store, machine.events, guest="g", fresh=False, digest=sha256_sparse)
    assert list((tmp_path / "remote").glob("??/*")) == []


@pytest.mark.parametrize("what", ["option", "variable", "file"])
def test_the_remote_is_that_of_option_environment_or_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    place = tmp_path / "remote"
    if what == "variable":
        monkeypatch.setenv("IMAGEKIT_STORE_REMOTE", str(place))
    if what == "file":
        (tmp_path / "imagekit.toml").write_text(f'[store]\nremote = "{place}"\n')
    option = place if what == "option" else None
    store = configured_store(Events(), sha256_sparse, copy_sparse, remote=option)
    assert isinstance(store, LayeredStore)


def test_without_a_remote_the_store_is_the_local_one() -> None:
    assert isinstance(configured_store(Events(), sha256_sparse, copy_sparse), Store)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_none_is_stronger_than_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "imagekit.toml").write_text(f'[store]\nremote = "{tmp_path}/remote"\n')
    if how == "variable":
        monkeypatch.setenv("IMAGEKIT_STORE_REMOTE", "none")
    option = Path("none") if how == "option" else None
    store = configured_store(Events(), sha256_sparse, copy_sparse, remote=option)
    assert isinstance(store, Store)


@pytest.mark.parametrize("text", ['"results"', "7", '""'])
def test_a_remote_that_is_no_path_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "imagekit.toml").write_text(f"[store]\nremote = {text}\n")
    with pytest.raises(SpecError, match=r"imagekit\.toml: store\.remote"):
        configured_store(Events(), sha256_sparse, copy_sparse)


def test_a_store_is_not_its_own_remote(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is in the store of this host"):
        configured_store(
            Events(), sha256_sparse, copy_sparse, remote=tmp_path / "cache/store/objects"
        )
