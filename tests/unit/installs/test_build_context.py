"""What a plan depends on is read once; planning itself reads no variables and sets none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from imagekit.errors import SpecError
from imagekit.host.run import children_see, run
from imagekit.installs.build import plan_for
from imagekit.installs.context import BuildContext, context_for
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.answers import Answers
from imagekit.installs.stages.capability import KernelCheck
from imagekit.installs.stages.configs import Configs
from imagekit.installs.stages.formats import Qcow2, Vhd
from imagekit.installs.stages.harvesting import Harvest
from imagekit.installs.stages.image import Image
from imagekit.installs.stages.installing import InstallFromIso
from imagekit.installs.stages.isosource import IsoSource
from imagekit.installs.stages.lockfile import InstalledLock, LockFile
from imagekit.installs.stages.remastering import Remaster
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.sbom import Sbom
from imagekit.installs.stages.system import System
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import execute
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.source import code_modules
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_file
from imagekit.pipeline.store import Store
from imagekit.spec.install import Iso
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.lock import Lock

HASH = "$6$saltsalt$" + "a" * 86
OTHER = "$6$saltsalt$" + "b" * 86


def guest(base: Path, *more: str, install: str = "{method: debootstrap}") -> SpecFile:
    (base / "keys.gpg").write_bytes(b"key")
    path = base / "g.yaml"
    text = (
        "name: g\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        f"install: {install}\n"
    )
    path.write_text(text + "".join(f"{line}\n" for line in more))
    return load_spec(path)


def keys(plan: Plan) -> dict[str, str]:
    return {p.stage.name: p.key for p in plan.stages}


def a_lock(file: SpecFile, epoch_from: str) -> Lock:
    value = {
        "name": "g",
        "spec_sha256": file.sha256,
        "method": "debootstrap",
        "source_date_epoch": 1_600_000_000,
        "epoch_from": epoch_from,
        "kernel": "6.1",
        "keyring_sha256": None,
        "sources": [],
        "releases": [],
        "inputs": {},
        "tools": {},
        "packages": [],
    }
    return Lock.model_validate(value)


def test_a_context_cannot_be_changed_and_does_not_show_its_secrets(tmp_path: Path) -> None:
    file = guest(tmp_path, "identity: {root_password: {env: ROOT_HASH}}")
    context = context_for(file, tmp_path / "out", {"ROOT_HASH": HASH})
    assert context.secrets == {"root": HASH}
    assert HASH not in repr(context)
    with pytest.raises(FrozenInstanceError):
        context.epoch = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        context.secrets["root"] = OTHER  # type: ignore[index]


def test_secrets_come_from_the_given_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = guest(tmp_path, "identity: {root_password: {env: ROOT_HASH}}")
    monkeypatch.setenv("ROOT_HASH", HASH)
    with pytest.raises(SpecError, match="no variable ROOT_HASH") as caught:
        context_for(file, tmp_path / "out", {})
    assert "g.yaml:4" in str(caught.value.where)
    with pytest.raises(SpecError, match="never accepted"):
        context_for(file, tmp_path / "out", {"ROOT_HASH": "secret"})
    monkeypatch.delenv("ROOT_HASH")
    plans = [plan_for(context_for(file, tmp_path, {"ROOT_HASH": h})) for h in (HASH, OTHER)]
    first, second = (keys(plan) for plan in plans)
    assert {n for n in first if first[n] != second[n]} >= {"image"}
    assert first["rootfs"] == second["rootfs"]


def test_planning_neither_reads_nor_sets_the_epoch_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = guest(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    before = dict(os.environ)
    without = plan_for(context_for(file, tmp_path, {}))
    given = plan_for(context_for(file, tmp_path, {"SOURCE_DATE_EPOCH": "1600000000"}))
    locked = context_for(file, tmp_path, {}, lock=a_lock(file, "releases"))
    plan_for(locked)
    assert dict(os.environ) == before
    assert without.environment == {"SOURCE_DATE_EPOCH": None}
    assert given.environment == {"SOURCE_DATE_EPOCH": "1600000000"}
    assert keys(without)["rootfs"] != keys(given)["rootfs"]
    assert locked.epoch == 1_600_000_000


def test_a_lock_of_what_was_installed_may_bring_no_epoch(tmp_path: Path) -> None:
    file = guest(tmp_path)
    lock = a_lock(file, "packages")
    assert context_for(file, tmp_path, {}, lock=lock).epoch == lock.source_date_epoch
    earlier = lock.model_copy(update={"source_date_epoch": 0})
    assert context_for(file, tmp_path, {}, lock=earlier).epoch is None
    other = lock.model_copy(update={"spec_sha256": "f" * 64})
    with pytest.raises(SpecError, match="not the one the lock"):
        context_for(file, tmp_path, {}, lock=other)


DOMAIN = ("memory: 512", "vcpus: 2", "nics: [{bridge: br9}]", "toolstacks: [xl, xm]")


@pytest.mark.parametrize("line", [*DOMAIN, "proof: {modes: [pv]}", "maxmem: 2048"])
def test_a_lock_stays_valid_when_only_the_domain_changes(tmp_path: Path, line: str) -> None:
    first = guest(tmp_path)
    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    before = keys(plan_for(context_for(first, tmp_path, epoch)))
    lock = a_lock(first, "releases").model_copy(update={"spec_sha256": first.image_sha256})
    changed = guest(tmp_path, line)
    assert changed.sha256 != first.sha256
    assert context_for(changed, tmp_path, {}, lock=lock).image_sha256 == first.image_sha256
    after = keys(plan_for(context_for(changed, tmp_path, epoch)))
    assert {n for n in before if before[n] != after[n]} <= {"configs"}


@pytest.mark.parametrize(
    "line", ["disk: {size: 3GiB}", "identity: {hostname: x}", "scripts: [./s]"]
)
def test_a_lock_is_not_for_a_spec_of_another_image(tmp_path: Path, line: str) -> None:
    (tmp_path / "s").write_text("#!/bin/sh\n")
    lock = a_lock(guest(tmp_path), "releases")
    with pytest.raises(SpecError, match="not the one the lock"):
        context_for(guest(tmp_path, line), tmp_path, {}, lock=lock)


def test_a_lock_of_an_earlier_version_gives_the_identifiers_that_it_gave(tmp_path: Path) -> None:
    file = guest(tmp_path, "memory: 512")
    lock = a_lock(file, "releases")
    assert lock.spec_sha256 == file.sha256 != file.image_sha256
    assert context_for(file, tmp_path, {}, lock=lock).image_sha256 == file.sha256


def test_identifiers_follow_from_the_lock_unless_they_are_to_be_unique(tmp_path: Path) -> None:
    file = guest(tmp_path)
    free = context_for(file, tmp_path, {"SOURCE_DATE_EPOCH": "1600000000"})
    lock = a_lock(file, "archive").model_copy(update={"spec_sha256": file.image_sha256})
    assert context_for(file, tmp_path, {}, lock=lock).seed == free.seed
    seeded = lock.model_copy(update={"seed": "of another day"})
    context = context_for(file, tmp_path, {}, lock=seeded)
    assert context.seed == "of another day"
    assert replace(context, unique="9f").seed == "9f"
    assert BuildContext(file, tmp_path).seed is None


def refuse(*_arguments: object, **_more: object) -> NoReturn:
    raise AssertionError("a constructor reads")


class Unread(dict[str, str]):
    """An environment that nobody may look into."""

    __getitem__ = get = __contains__ = refuse


def test_constructors_of_stages_read_neither_files_nor_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iso = "{method: iso, iso: no.iso, keyring: no.gpg, template: no.j2}"
    file = guest(tmp_path, "scripts: [no.sh]", "files: [{target: /x, source: no}]", install=iso)
    install = file.spec.install
    assert isinstance(install, Iso)
    plain = BuildContext(guest(tmp_path), tmp_path)
    context = BuildContext(file, tmp_path, secrets={"root": HASH})
    mirrors = Mirrors((), (), tmp_path / "no.gpg")
    for name in ("open", "read_text", "read_bytes", "stat", "is_file", "is_dir", "exists"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(os, "environ", Unread())
    stages: list[Stage] = [
        *(IsoSource(context, install), Answers(context, install), Remaster(context, install)),
        *(InstallFromIso(context, install), Harvest(context, golden=True), Configs(context)),
        *(Image(context), Sbom(context, "p"), InstalledLock(context, "p", {}), LockFile(context)),
        *(KernelCheck(context), Qcow2(context), Vhd(context)),
        *(Rootfs(plain, mirrors, []), System(plain)),
    ]
    monkeypatch.undo()
    for stage, missing in ((stages[0], "no.iso"), (stages[1], "no.j2"), (stages[6], "no")):
        with pytest.raises(SpecError, match=missing):
            stage.check()


def test_a_plan_checks_every_stage_before_it_asks_for_keys(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no script .*no\.sh"):
        plan_for(context_for(guest(tmp_path, "scripts: [no.sh]"), tmp_path, {}))


def test_children_see_what_a_plan_says_and_this_process_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")

    def seen() -> str:
        return run(["sh", "-c", 'echo "${SOURCE_DATE_EPOCH-none} ${OWN-none}"']).text.strip()

    with children_see({"SOURCE_DATE_EPOCH": "2", "OWN": "x"}):
        assert seen() == "2 x"
        with children_see({"SOURCE_DATE_EPOCH": None}):
            assert seen() == "none x"
        assert seen() == "2 x"
        assert os.environ["SOURCE_DATE_EPOCH"] == "1"
    assert seen() == "1 none"


class Printing(Stage):
    """Keeps what a program sees."""

    name = "printing"
    title = "printing"
    makes = ("seen",)

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, stage_run: StageRun) -> None:
        text = run(["sh", "-c", 'echo "${SOURCE_DATE_EPOCH-none}"']).text
        (stage_run.output / "seen").write_text(text)


@pytest.mark.parametrize(("epoch", "seen"), [(None, "none"), (1_600_000_000, "1600000000")])
def test_the_tools_of_a_build_see_the_epoch_of_its_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int | None, seen: str
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    context = BuildContext(guest(tmp_path), tmp_path, epoch)
    plan = make_plan([Printing()], [Target("seen", "seen", "log")], context.environment)
    done = execute(plan, Store(), Events(), guest="g", fresh=True, digest=digest_file)
    assert done["printing"].entry.files["seen"].read_text().strip() == seen


def test_the_configs_depend_on_the_toolstacks_of_their_spec_and_no_others(tmp_path: Path) -> None:
    path = guest(tmp_path, "toolstacks: [xl]").path
    stage = Configs(BuildContext(load_spec(path), tmp_path))
    modules = code_modules(type(stage), stage.loads)
    assert "imagekit.toolstacks.xl.emitter" in modules
    assert "imagekit.toolstacks.libvirt.emitter" not in modules
    both = Configs(BuildContext(load_spec(path, ["toolstacks=[xl, libvirt]"]), tmp_path))
    assert "imagekit.toolstacks.libvirt.emitter" in code_modules(type(both), both.loads)
    keys = [make_plan([Needed(), s], []).stages[1].parts["code"] for s in (stage, both)]
    assert keys[0] != keys[1]


class Needed(Stage):
    """Makes what configs need."""

    name = "needed"
    title = "needed"
    makes = Configs.needs

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, stage_run: StageRun) -> None:
        pytest.fail("a plan runs no stage")
