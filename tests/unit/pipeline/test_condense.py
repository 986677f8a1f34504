"""Results that are kept as differences are the results they were, as long as what they need is."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import flip

from imagekit.errors import HostError
from imagekit.pipeline import condense as condensing
from imagekit.pipeline.bounds import Bounds, disk_usage, prune, results
from imagekit.pipeline.record import DIFFERENCE, RECORD, read_record
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.store import Made, Store

MIB = 1 << 20
BASE = random.Random(1).randbytes(3 * MIB)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensing, "LEAST", MIB)


def key(number: int) -> str:
    return f"{number:064x}"


def content(number: int) -> bytes:
    """What result ``number`` is: the base with 64 KiB of its own in the middle."""
    own = random.Random(number + 100).randbytes(64 << 10) if number else b""
    return BASE[:MIB] + own + BASE[MIB:]


def put(
    store: Store, number: int, *, interim: bool = False, quick: bool = False, stage: str = "tree"
) -> None:
    output = store.new_output()
    (output / "tree.tar").write_bytes(content(number))
    (output / "facts.json").write_text(str(number))
    inputs = (key(number - 1),) if number else ()
    made = Made(stage, "g", inputs, interim=interim, quick=quick)
    store.put(key(number), output, ["tree.tar", "facts.json"], {}, made)
    os.utime(store.root / "objects" / key(number) / RECORD, (number + 1, number + 1))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lying(store: Store, number: int) -> set[str]:
    return names(store.root / "objects" / key(number))


WHOLE = {"tree.tar", "facts.json", RECORD}
CONDENSED = {f"tree.tar{DIFFERENCE}", "facts.json", RECORD}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four results, each made of the one before it, the last three interim and condensed."""
    made = Store(tmp_path / "store")
    for number in range(4):
        put(made, number, interim=number > 0)
    made.settle()
    made.condense()
    return made


def right(store: Store, number: int) -> bool:
    """Whether the store gives a result; it must be that of its number."""
    entry = store.get(key(number), ["tree.tar", "facts.json"])
    if entry is None:
        return False
    assert entry.files["tree.tar"].read_bytes() == content(number)
    assert entry.files["facts.json"].read_text() == str(number)
    assert set(entry.files) == {"tree.tar", "facts.json"} and len(entry.files) == 2
    assert entry.sha256["tree.tar"] == digest_file(entry.files["tree.tar"])
    return True


def test_interim_results_are_kept_as_differences_and_are_what_they_were(store: Store) -> None:
    assert lying(store, 0) == WHOLE
    assert all(lying(store, number) == CONDENSED for number in (1, 2, 3))
    assert all(right(store, number) for number in range(4))
    assert disk_usage(store.root / "objects") < 4 * MIB


def test_the_store_takes_what_du_says(store: Store) -> None:
    os.sync()
    argv = ["du", "-s", "-B1", str(store.root / "objects")]
    told = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert disk_usage(store.root / "objects") == int(told.stdout.split()[0])
    assert sum(r.bytes for r in results(store.root)) < 4 * MIB


def test_what_was_put_together_goes_with_the_store(store: Store) -> None:
    assert right(store, 2)
    scratch = list((store.root / "tmp").iterdir())
    assert len(scratch) == 1
    store.__del__()
    assert list((store.root / "tmp").iterdir()) == []


def test_a_small_store_is_left_alone_and_a_large_one_is_not(tmp_path: Path) -> None:
    old = Store(tmp_path / "store")
    for number in range(6):
        put(old, number)
    old.settle()
    old.condense()
    assert all(lying(old, number) == WHOLE for number in range(6)), "it uses all of them"
    old.__del__()
    new = Store(tmp_path / "store")
    assert right(new, 5)
    new.condense()
    kinds = [lying(new, number) for number in range(6)]
    assert kinds[5] == WHOLE, "it is in use"
    assert CONDENSED in kinds
    assert disk_usage(new.root / "objects") < 3 * 4 * MIB
    new.__del__()
    assert all(right(Store(tmp_path / "store"), number) for number in range(6))


def test_a_result_of_no_inputs_is_a_difference_from_another_of_its_stage(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for number in (0, 2, 4):
        put(store, number, interim=number == 2, stage="rootfs")
    store.settle()
    store.condense()
    assert lying(store, 2) == CONDENSED
    assert right(store, 2)


def test_a_disk_that_is_delivered_is_no_base(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, 0)
    put(store, 1, interim=True)
    store.settle()
    (tmp_path / "delivered").hardlink_to(store.root / "objects" / key(0) / "tree.tar")
    assert right(store, 0)
    store.condense()
    assert lying(store, 1) == WHOLE


@pytest.mark.parametrize("what", ["removed", "written to"])
def test_a_disk_whose_build_directory_is_gone_is_read_before_it_is_condensed(
    tmp_path: Path, what: str
) -> None:
    store = Store(tmp_path / "store")
    put(store, 0)
    put(store, 1, interim=True)
    store.settle()
    (tmp_path / "delivered").hardlink_to(store.root / "objects" / key(1) / "tree.tar")
    if what == "written to":
        flip(tmp_path / "delivered")
    (tmp_path / "delivered").unlink()
    store.condense()
    assert lying(store, 1) == (CONDENSED if what == "removed" else WHOLE)
    assert right(store, 1) == (what == "removed")


def test_what_another_build_uses_is_not_touched(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, 0)
    put(store, 1, interim=True)
    store.settle()
    other = Store(tmp_path / "store")
    assert right(other, 1)
    store.condense()
    assert lying(store, 1) == WHOLE
    other.__del__()
    store.condense()
    assert lying(store, 1) == CONDENSED


@pytest.mark.parametrize("how", ["cp -a", "cp -r", "tar", "rsync -a", "rsync -r"])
def test_a_copy_of_a_store_with_differences_is_the_same_store(
    store: Store, tmp_path: Path, how: str
) -> None:
    copy = tmp_path / "copy"
    if how == "tar":
        copy.mkdir()
        made = subprocess.run(["tar", "-C", store.root, "-c", "."], check=True, capture_output=True)
        subprocess.run(["tar", "-C", copy, "-x"], check=True, input=made.stdout)
    elif how.startswith("rsync") and shutil.which("rsync") is None:
        pytest.skip("missing: rsync")
    else:
        slash = "/" if how.startswith("rsync") else ""
        subprocess.run([*how.split(), f"{store.root}{slash}", copy], check=True)
    shutil.rmtree(store.root)
    assert all(right(Store(copy), number) for number in range(4))
    assert all(right(Store(copy, verify=True), number) for number in range(4))


@pytest.mark.parametrize("name", [f"tree.tar{DIFFERENCE}", "facts.json", RECORD])
def test_verify_finds_a_flipped_bit_of_a_difference(store: Store, name: str) -> None:
    flip(store.root / "objects" / key(2) / name)
    careful = Store(store.root, verify=True)
    if name != RECORD or careful.get(key(2), ["tree.tar"]) is not None:
        assert name == RECORD or not right(careful, 2)
    assert right(careful, 1) and right(careful, 3)


def test_verify_finds_a_flipped_bit_of_a_base(store: Store) -> None:
    flip(store.root / "objects" / key(0) / "tree.tar")
    careful = Store(store.root, verify=True)
    assert not any(right(careful, number) for number in range(4))


def test_a_base_that_is_not_what_it_was_gives_no_wrong_file(store: Store) -> None:
    """Damage that nothing shows, as that of a disk."""
    entry = store.get(key(2), ["tree.tar"])
    assert entry is not None
    flip(store.root / "objects" / key(0) / "tree.tar")
    with pytest.raises(HostError, match=r"tree\.tar is damaged"):
        entry.files["tree.tar"]
    assert store.get(key(2), ["tree.tar"]) is None


def test_what_has_nothing_in_common_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    put(store, 0)
    output = store.new_output()
    (output / "tree.tar").write_bytes(random.Random(5).randbytes(2 * MIB))
    store.put(key(1), output, ["tree.tar"], {}, Made("t", "g", (key(0),), interim=True))
    store.settle()
    store.condense()
    assert lying(store, 1) == {"tree.tar", RECORD}
    monkeypatch.delattr(condensing, "write_difference")
    store.condense()


def test_a_build_condenses_a_few_files_and_leaves_the_rest_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condensing, "AT_ONCE", 2)
    old = Store(tmp_path / "store")
    for number in range(9):
        put(old, number)
    old.settle()
    old.__del__()
    for done in (2, 4):
        new = Store(tmp_path / "store")
        assert right(new, 8)
        new.condense()
        assert sum(lying(new, number) == CONDENSED for number in range(9)) == done
        new.__del__()


def test_old_results_that_are_made_in_seconds_go_first(tmp_path: Path) -> None:
    root = tmp_path / "store"
    old = Store(root)
    for number in range(6):
        put(old, number, quick=number in (1, 3, 4))
    old.settle()
    shutil.rmtree(root / "objects" / key(2))  # what 3 would be made of
    user = Store(root)
    assert right(user, 4)
    old.__del__()
    new = Store(root)
    assert right(new, 5)
    new.condense()
    left = {int(name, 16) for name in names(root / "objects")}
    assert left == {0, 3, 4, 5}, "4 is in use, and 3 could not be made again"
    user.__del__()
    new.__del__()
    assert all(right(Store(root), number) for number in left)


def test_a_quick_result_that_others_need_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for number in range(3):
        put(store, number, interim=number == 2, quick=number == 0)
    store.settle()
    store.condense()
    store.__del__()
    new = Store(tmp_path / "store")
    put(new, 9)
    new.settle()
    new.condense()
    assert right(new, 2) and right(new, 0)


def made_anew(store: Store) -> None:
    output = store.new_output()
    (output / "tree.tar").write_bytes(b"other bytes" * MIB)
    store.put(key(0), output, ["tree.tar"], {})
    store.settle()


GONE: dict[str, Callable[[Store], None]] = {
    "removed": lambda store: shutil.rmtree(store.root / "objects" / key(0)),
    "made anew": made_anew,
    "without a record": lambda store: (store.root / "objects" / key(0) / RECORD).unlink(),
    "without its file": lambda store: (store.root / "objects" / key(0) / "tree.tar").unlink(),
    "writable for all": lambda store: (store.root / "objects" / key(0)).chmod(0o777),
}


@pytest.mark.parametrize("how", GONE)
def test_a_difference_falls_with_its_base(store: Store, how: str) -> None:
    GONE[how](store)
    assert not any(right(Store(store.root), number) for number in (1, 2, 3))
    if how == "removed":
        store.__del__()
        assert [r.used for r in results(store.root)] == [0.0, 0.0, 0.0], "the next to be pruned"


def test_a_base_is_not_pruned_before_what_needs_it(store: Store) -> None:
    root = store.root
    store.__del__()
    for number in range(4):  # the base was used longest ago
        os.utime(root / "objects" / key(number) / RECORD, (number + 1, number + 1))
    while there := names(root / "objects"):
        assert all(right(Store(root), int(name, 16)) for name in there)
        for number in range(4):
            if key(number) in there:
                os.utime(root / "objects" / key(number) / RECORD, (number + 1, number + 1))
        taken = disk_usage(root) - disk_usage(root / "tmp")
        assert prune(root, Bounds(taken - 1, 0)).removed == 1


def test_a_base_of_what_is_in_use_stays(store: Store) -> None:
    root = store.root
    store.__del__()
    user = Store(root)
    assert right(user, 3)
    prune(root, Bounds(0, 0))
    left = names(root / "objects")
    assert {key(0), key(3)} <= left
    assert right(user, 3)


def test_a_killed_condensation_leaves_the_result(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, 0)
    put(store, 1, interim=True)
    store.settle()
    directory = store.root / "objects" / key(1)
    (directory / f"tree.tar{DIFFERENCE}").write_bytes(b"written, and not yet recorded")
    assert right(store, 1)
    store.condense()
    assert lying(store, 1) == CONDENSED and right(store, 1)
    # Recorded, and the whole file is not yet removed.
    (directory / "tree.tar").write_bytes(b"nobody looks at it")
    assert right(Store(store.root), 1)
    assert "tree.tar" in read_record(directory).differences
