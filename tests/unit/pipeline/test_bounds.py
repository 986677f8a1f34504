"""The store keeps itself below its bounds, and says what it takes as du does."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path

import pytest

from imagekit.errors import SpecError
from imagekit.pipeline import bounds as bounding
from imagekit.pipeline import settings
from imagekit.pipeline.bounds import Bounds, bounds, default_bounds, disk_usage, prune, results
from imagekit.pipeline.record import RECORD
from imagekit.pipeline.store import Made, Store

KIB = 1 << 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = (tmp_path / "host.toml", tmp_path / "user.toml")
    monkeypatch.setattr(settings, "settings_files", lambda: files)
    for variable in settings.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def fill(store: Store, *used: int) -> list[str]:
    """Results of 64 KiB each, last used at these times; returns their keys."""
    keys = []
    for number, moment in enumerate(used):
        key = f"{number:064x}"
        output = store.new_output()
        (output / "file").write_bytes(bytes([number + 1]) * 64 * KIB)
        store.put(key, output, ["file"], {}, Made("rootfs", f"guest{number}"))
        store.settle()
        os.utime(store.root / "objects" / key / RECORD, (moment, moment))
        keys.append(key)
    return keys


def names(store: Store) -> set[str]:
    return {path.name for path in (store.root / "objects").iterdir()}


def taken(root: Path) -> int:
    """What the store takes but for what is being made."""
    return disk_usage(root) - disk_usage(root / "tmp")


def freed(store: Store) -> Path:
    """The root of the store, which nobody holds any more."""
    root = store.root
    store.__del__()
    return root


def test_what_was_used_longest_ago_goes_first(store: Store) -> None:
    keys = fill(store, 30, 10, 20)
    root = freed(store)
    done = prune(root, Bounds(taken(root) - 1, 0))
    assert (done.removed, names(store)) == (1, {keys[0], keys[2]})
    done = prune(root, Bounds(taken(root) - 100 * KIB, 0))
    assert (done.removed, names(store)) == (2, set())
    assert done.left <= disk_usage(root)


def test_files_that_were_fetched_go_as_results_do(store: Store) -> None:
    keys = fill(store, 20)
    for moment, data in ((10, b"old" * KIB), (30, b"new" * KIB)):
        sha256 = hashlib.sha256(data).hexdigest()
        assert store.pool.keep(io.BytesIO(data), sha256)
        os.utime(store.pool.root / sha256, (moment, moment))
    root = freed(store)
    assert [result.fetched for result in results(root)] == [True, False, True]
    assert prune(root, Bounds(taken(root) - 1, 0)).removed == 1
    assert [result.used for result in results(root)] == [20, 30]
    assert names(store) == set(keys)
    assert prune(root, Bounds(0, 0)).removed == 2


def test_what_is_being_made_drives_nothing_out(store: Store) -> None:
    keys = fill(store, 1, 2)
    (store.new_output() / "disk.raw").write_bytes(bytes(4 << 20))
    root = freed(store)
    assert prune(root, Bounds(1 << 20, 0)).removed == 0
    assert names(store) == set(keys)


def test_within_its_bounds_nothing_goes(store: Store) -> None:
    keys = fill(store, 1, 2)
    root = freed(store)
    assert prune(root, Bounds(disk_usage(root), 0)).removed == 0
    assert names(store) == set(keys)


def test_a_full_file_system_makes_it_smaller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = fill(store, 1, 2, 3)
    root = freed(store)
    monkeypatch.setattr(bounding, "_free", lambda _root: 1000 - 100 * len(names(store)))
    assert prune(root, Bounds(1 << 40, 850)).removed == 2
    assert names(store) == {keys[2]}


def test_what_somebody_uses_stays_whatever_the_bounds_say(store: Store) -> None:
    keys = fill(store, 1, 2)
    root = freed(store)
    user = Store(root)
    assert user.get(keys[0], ["file"]) is not None
    assert prune(root, Bounds(0, 1 << 62)).removed == 1
    assert names(store) == {keys[0]}


def test_a_result_without_a_record_is_the_first_to_go(store: Store) -> None:
    keys = fill(store, 1, 2)
    (store.root / "objects" / keys[1] / RECORD).write_text("{")
    assert [result.key for result in results(freed(store))] == [keys[1], keys[0]]


def test_its_size_is_that_of_du(store: Store, tmp_path: Path) -> None:
    fill(store, 1, 2, 3)
    first = store.root / "objects" / f"{0:064x}"
    (first / "logs").mkdir()
    (first / "logs/again").hardlink_to(first / "file")
    (tmp_path / "delivered").hardlink_to(first / "file")
    with (first / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    os.sync()  # until then a file system may not know what a file takes
    told = subprocess.run(
        ["du", "-s", "-B1", store.root], capture_output=True, text=True, check=True
    )
    assert disk_usage(store.root) == int(told.stdout.split()[0])


def test_the_bounds_are_those_of_the_environment_the_user_the_host_and_the_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = default_bounds(store.root)
    whole = os.statvfs(store.root)
    assert usual.size == min(20 << 30, whole.f_blocks * whole.f_frsize // 4)
    assert bounds(store.root) == usual
    (tmp_path / "host.toml").write_text('[cache]\nsize = "1GiB"\nfree = "2GiB"\n')
    assert bounds(store.root) == Bounds(1 << 30, 2 << 30)
    (tmp_path / "user.toml").write_text('[cache]\nsize = "3GiB"\n')
    assert bounds(store.root) == Bounds(3 << 30, 2 << 30)
    monkeypatch.setenv("IMAGEKIT_CACHE_SIZE", "4GiB")
    assert bounds(store.root) == Bounds(4 << 30, 2 << 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cache]\nsize = 7\n", "host.toml: cache.size"),
        ('[cache]\nsize = "much"\n', "is not a size"),
        ('[cache]\nsise = "1GiB"\n', "no setting cache.sise"),
        ('[cash]\nsize = "1GiB"\n', "no table 'cash'"),
        ("cache = 7\n", "cache must be a table"),
        ("[cache\n", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(
    store: Store, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "host.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        bounds(store.root)
    assert message in str(caught.value) and "host.toml" in str(caught.value)
