"""Elements in locks: written with digests, compared before anything is built, shown by diff."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from oracles.elements import make_element

from imagekit.errors import SpecError
from imagekit.installs import debootstrap
from imagekit.installs.build import plan_for
from imagekit.installs.context import BuildContext, context_for
from imagekit.installs.stages.lockfile import LockFile
from imagekit.locks.changes import changes
from imagekit.pipeline.events import Events
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.workspace import workspace
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.lock import Lock, LockedElement, parse_lock, read_lock


@pytest.fixture
def file(tmp_path: Path) -> SpecFile:
    (tmp_path / "keys.gpg").write_bytes(b"key")
    scripts = {"install.d/10-x": "#!/bin/sh\ntrue\n", "static/etc/x": "1\n"}
    make_element(tmp_path / "mine", "e", scripts, deps="sysprep\n")
    path = tmp_path / "g.yaml"
    path.write_text(
        "name: g\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        "install: {method: debootstrap, elements: [e, growroot], element_path: [mine]}\n"
    )
    return load_spec(path)


def planned(file: SpecFile, lock: Lock) -> Plan:
    return plan_for(context_for(file, file.base / "out", {}, lock=lock))


def lock_stage(file: SpecFile) -> LockFile:
    plan = debootstrap.plan(BuildContext(file, file.base / "out"))
    (stage,) = [p.stage for p in plan.stages if isinstance(p.stage, LockFile)]
    return stage


def lock_of(file: SpecFile) -> Lock:
    """The lock that a build of ``file`` writes, read back from its file."""
    stage = lock_stage(file)
    inputs = {name: file.base / name for name in stage.needs}
    value: dict[str, Any] = {"keyring_sha256": None, "sources": [], "releases": [], "packages": []}
    for path in inputs.values():
        path.write_text(json.dumps(value))
    inputs["release"].write_text("6.1")
    with workspace(Events()) as space:
        run = StageRun(space, inputs, file.base, file.base / "logs")
        stage.run(run)
    return read_lock(file.base / "lock.yaml")


def test_a_lock_names_every_element_with_its_place_and_digest(file: SpecFile) -> None:
    lock = lock_of(file)
    found = {e.name: e.path for e in lock.elements}
    assert found["e"] == "mine/e"
    assert found["growroot"] == "imagekit/growroot"
    assert found["sysprep"] == "diskimage-builder/sysprep"
    assert len({e.sha256 for e in lock.elements}) == len(lock.elements)
    text = (file.base / "lock.yaml").read_text()
    (line,) = [line for line in text.splitlines() if "name: e," in line]
    assert next(e.sha256 for e in lock.elements if e.name == "e") in line


def test_the_lock_is_written_anew_when_an_element_changed(file: SpecFile) -> None:
    before = lock_stage(file).key()
    (file.base / "mine/e/README.rst").write_text("other words\n")
    assert lock_stage(file).key() == before
    (file.base / "mine/e/static/etc/x").write_text("2\n")
    assert lock_stage(file).key() != before


@pytest.mark.parametrize("path", ["install.d/10-x", "static/etc/x"])
def test_a_locked_build_is_refused_when_an_element_changed(file: SpecFile, path: str) -> None:
    lock = lock_of(file)
    planned(file, lock)
    changed = file.base / "mine/e" / path
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(SpecError, match=r"the element e .*mine/e.* has changed") as caught:
        planned(file, lock)
    assert "g.yaml:3" in str(caught.value.where)
    assert "lock diff" in str(caught.value.hint)


def test_a_locked_build_is_refused_when_a_script_lost_its_execute_bit(file: SpecFile) -> None:
    lock = lock_of(file)
    (file.base / "mine/e/install.d/10-x").chmod(0o644)
    with pytest.raises(SpecError, match="the element e "):
        planned(file, lock)


def test_elements_that_came_or_went_are_named(file: SpecFile) -> None:
    lock = lock_of(file)
    make_element(file.base / "mine", "more", {"install.d/20-y": "#!/bin/sh\n"})
    (file.base / "mine/e/element-deps").write_text("more\n")
    with pytest.raises(SpecError, match="the element e "):
        planned(file, lock)
    same = [e for e in lock_of(file).elements if e.name not in ("more", "sysprep")]
    with pytest.raises(SpecError, match="element more is needed, and is not in the lock"):
        planned(file, lock.model_copy(update={"elements": same}))
    gone = [*lock_of(file).elements, LockedElement(name="old", path="mine/old", sha256="a" * 64)]
    with pytest.raises(SpecError, match="element old is in the lock, and is not needed"):
        planned(file, lock.model_copy(update={"elements": gone}))


def test_the_same_element_in_another_place_is_the_same(file: SpecFile) -> None:
    lock = lock_of(file)
    shutil.move(file.base / "mine", file.base / "moved")
    (file.base / "mine").symlink_to("moved")
    planned(file, lock)


def test_an_element_that_makes_the_tree_has_no_lock(file: SpecFile) -> None:
    overrides = ["install.elements=[debian-minimal]", "install.element_network=true"]
    other = load_spec(file.path, overrides)
    lock = lock_of(file).model_copy(update={"spec_sha256": other.sha256})
    with pytest.raises(SpecError, match="in no lock"):
        planned(other, lock)


def test_a_diff_of_locks_shows_the_elements_that_changed(file: SpecFile) -> None:
    old = lock_of(file)
    (file.base / "mine/e/static/etc/x").write_text("2\n")
    new = lock_of(file)

    def words(found: Sequence[object]) -> list[str]:
        return [str(c) for c in found if " element " in str(c)]

    (line,) = words(changes(old, new))
    assert line.startswith("  element e: mine/e (")
    assert words(changes(old, old)) == []
    none = old.model_copy(update={"elements": []})
    assert all(line.startswith("+ element ") for line in words(changes(none, old)))


@pytest.mark.parametrize(
    "value", ["[{name: e}]", "[{name: e, path: x, sha256: zz}]", "{e: 1}", '[{name: "a\\nb"}]']
)
def test_a_lock_with_broken_elements_is_refused(value: str) -> None:
    text = (
        f"lock: 1\nname: g\nspec_sha256: {'a' * 64}\nmethod: debootstrap\n"
        f"source_date_epoch: 1\nelements: {value}\n"
    )
    with pytest.raises(SpecError, match="not a lock: elements"):
        parse_lock(text.encode(), "x.lock")
