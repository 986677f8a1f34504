"""What lies in the store counts only as it was stored, by us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import flip

from imagekit.errors import HostError
from imagekit.host import ownership
from imagekit.pipeline import workspace as workspaces
from imagekit.pipeline.events import Events
from imagekit.pipeline.record import RECORD, StoredFile, note, read_record
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.store import Entry, Store
from imagekit.pipeline.workspace import workspace

KEY = "a" * 64
MAKES = ["disk.raw", "tree.tar"]


@pytest.fixture
def read(tmp_path: Path) -> list[Path]:
    """The files whose digests were taken."""
    return []


@pytest.fixture
def store(tmp_path: Path, read: list[Path]) -> Store:
    def digest(path: Path) -> str:
        read.append(path)
        return digest_file(path)

    return Store(tmp_path / "store", digest)


@pytest.fixture
def stored(store: Store, read: list[Path]) -> Entry:
    output = store.new_output()
    (output / "disk.raw").write_bytes(b"disk" * 100)
    (output / "tree.tar").write_bytes(b"tree" * 100)
    store.put(KEY, output, MAKES, {"disk.raw": digest_file(output / "disk.raw")})
    store.settle()
    assert [path.name for path in read] == ["tree.tar"]
    read.clear()
    entry = store.get(KEY, MAKES)
    assert entry is not None
    return entry


def ticked() -> None:
    """Wait until files get another time of change (the clock of older kernels has 4 ms)."""
    time.sleep(0.02)


def test_what_was_stored_is_there_and_nothing_is_read_for_it(
    store: Store, stored: Entry, read: list[Path]
) -> None:
    assert store.get(KEY, MAKES) == stored
    assert read == []


@pytest.mark.parametrize("name", MAKES)
def test_a_file_that_was_altered_with_its_old_time_put_back_is_made_anew(
    store: Store, stored: Entry, name: str
) -> None:
    path = stored.files[name]
    before = path.stat()
    ticked()
    with path.open("r+b") as stream:
        stream.write(b"evil")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert store.get(KEY, MAKES) is None


def test_a_disk_that_was_touched_and_is_the_same_is_read_once(
    store: Store, stored: Entry, read: list[Path]
) -> None:
    ticked()
    stored.files["disk.raw"].chmod(0o644)
    for _ in range(3):
        assert store.get(KEY, MAKES) is not None
    assert read == [stored.files["disk.raw"]]


def test_a_disk_that_was_linked_by_its_delivery_is_not_read(
    tmp_path: Path, store: Store, stored: Entry, read: list[Path]
) -> None:
    disk = stored.files["disk.raw"]
    (tmp_path / "delivered").hardlink_to(disk)
    note(stored.directory, {"disk.raw": StoredFile.of(disk.lstat(), stored.sha256["disk.raw"])})
    assert store.get(KEY, MAKES) is not None
    assert read == []


def copied(store: Store, target: Path, how: str) -> Store:
    """A copy of the store elsewhere, with other inodes and, by cp -r, other times."""
    if how == "tar":
        target.mkdir()
        made = subprocess.run(["tar", "-C", store.root, "-c", "."], check=True, capture_output=True)
        subprocess.run(["tar", "-C", target, "-x"], check=True, input=made.stdout)
    else:
        subprocess.run(["cp", how, store.root, target], check=True)
    return Store(target)


@pytest.mark.parametrize("how", ["-a", "-r", "tar"])
def test_a_copied_store_is_the_same_store(
    store: Store, stored: Entry, tmp_path: Path, how: str
) -> None:
    copy = copied(store, tmp_path / "copy", how)
    found = copy.get(KEY, MAKES)
    assert found is not None and found.sha256 == stored.sha256
    assert found.files["tree.tar"].read_bytes() == b"tree" * 100
    # It is read once.
    again = Store(copy.root, lambda path: pytest.fail(f"{path} is read again"))
    assert again.get(KEY, MAKES) is not None


@pytest.mark.parametrize("name", MAKES)
def test_a_byte_that_a_copy_lost_is_seen(
    store: Store, stored: Entry, tmp_path: Path, name: str
) -> None:
    copy = copied(store, tmp_path / "copy", "-a")
    path = copy.root / "objects" / KEY / name
    flip(path)
    assert copy.get(KEY, MAKES) is None


@pytest.mark.parametrize("name", MAKES)
def test_verify_reads_what_looks_untouched(store: Store, stored: Entry, name: str) -> None:
    path = stored.files[name]
    flip(path)
    sha256 = stored.sha256[name]
    # As if the disk had lost it: nothing but the content tells.
    note(stored.directory, {name: StoredFile.of(path.lstat(), sha256)})
    assert store.get(KEY, MAKES) is not None
    assert Store(store.root, verify=True).get(KEY, MAKES) is None


def test_verify_reads_each_result_once(store: Store, stored: Entry, read: list[Path]) -> None:
    careful = Store(store.root, store.digest, verify=True)
    for _ in range(3):
        assert careful.get(KEY, MAKES) is not None
    assert sorted(path.name for path in read) == sorted(MAKES)


def test_the_thread_that_takes_digests_hears_no_signal(tmp_path: Path) -> None:
    heard: list[set[signal.Signals]] = []

    def digest(path: Path) -> str:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        heard.append({signal.SIGINT, signal.SIGTERM, signal.SIGHUP} - blocked)
        return digest_file(path)

    other = Store(tmp_path / "other", digest)
    output = other.new_output()
    (output / "a").write_bytes(b"a")
    other.put(KEY, output, ["a"], {})
    other.settle()
    assert heard == [set()]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_is_written_to_while_its_digest_is_taken_gets_none(
    store: Store, tmp_path: Path
) -> None:
    def slow(path: Path) -> str:
        digest = digest_file(path)
        with path.open("ab") as stream:
            stream.write(b"more")
        return digest

    other = Store(tmp_path / "other", slow)
    output = other.new_output()
    (output / "a").write_bytes(b"a")
    other.put(KEY, output, ["a"], {})
    other.settle()
    assert read_record(other.root / "objects" / KEY).digests() == {}
    assert other.get(KEY, ["a"]) is None


def replaced_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o660),
        lambda path: path.chmod(0o602),
        replaced_by_link,
        lambda path: path.unlink(),
    ],
)
@pytest.mark.parametrize("name", [*MAKES, RECORD])
def test_files_that_others_may_write_to_or_that_are_links_do_not_count(
    store: Store, stored: Entry, name: str, change: Callable[[Path], None]
) -> None:
    change(stored.directory / name)
    assert store.get(KEY, MAKES) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [*MAKES, RECORD, "."])
def test_objects_of_another_user_do_not_count(store: Store, stored: Entry, name: str) -> None:
    os.chown(stored.directory / name, 64001, 64001)
    assert store.get(KEY, MAKES) is None


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", "", "sub/file"])
def test_a_record_cannot_name_a_file_elsewhere(store: Store, stored: Entry, name: str) -> None:
    record = json.loads((stored.directory / RECORD).read_text())
    record["files"][name] = record["files"].pop("tree.tar")
    (stored.directory / RECORD).write_text(json.dumps(record))
    assert store.get(KEY, ["disk.raw"]) is None


@pytest.mark.parametrize("folder", ["", "objects", "tmp", "locks", "last"])
def test_a_store_that_others_write_to_or_own_is_refused(
    tmp_path: Path, store: Store, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store" / folder).chmod(0o777)
    with pytest.raises(HostError, match=r"writable for everybody(.|\n)*IMAGEKIT_CACHE"):
        Store(tmp_path / "store")
    (tmp_path / "store" / folder).chmod(0o700)
    monkeypatch.setattr(ownership, "trusted_owners", lambda: frozenset({64001}))
    with pytest.raises(HostError, match="belongs to"):
        Store(tmp_path / "store")


def test_a_new_store_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "new/store")
    finally:
        os.umask(before)
    Store(tmp_path / "new/store")
    made = [tmp_path / "new/store", *(tmp_path / "new/store").iterdir()]
    assert {p.stat().st_mode & 0o777 for p in made} == {0o700}


def test_a_directory_for_work_that_somebody_else_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(workspaces, "SHM", tmp_path / "shm")
    monkeypatch.setattr(workspaces, "fits_in_memory", lambda _size: True)
    with workspace(Events(), tmp_path / "work") as space:
        first = space.temporary("one", size_bytes=1)
        second = space.temporary("two", size_bytes=1)
        assert first.parent == second.parent == space.shm
    assert list((tmp_path / "shm").iterdir()) == []
    with workspace(Events(), tmp_path / "work") as space:
        space.shm.mkdir(mode=0o777)
        with pytest.raises(HostError, match="not this run's"):
            space.temporary("one", size_bytes=1)
    with workspace(Events(), tmp_path / "work") as space:
        space.shm.symlink_to(tmp_path / "work")
        with pytest.raises(HostError, match="not this run's"):
            space.temporary("one", size_bytes=1)
    assert (tmp_path / "work").is_dir()


def test_a_room_for_work_that_others_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o777)
    with (
        pytest.raises(HostError, match="writable for everybody"),
        workspace(Events(), tmp_path / "work"),
    ):
        pytest.fail("used")
