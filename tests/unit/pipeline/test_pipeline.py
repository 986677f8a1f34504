"""The engine: plans, the store, delivery, workspaces; with stages made up for the purpose."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imagekit.errors import BusyError, ExistsError, ImagekitError, Interrupted
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.deliver import deliver, plan_digest
from imagekit.pipeline.events import MASK, Event, Events
from imagekit.pipeline.execute import StageResult, execute, needed
from imagekit.pipeline.plan import Plan, make_plan, why
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import sweep, workspace
from imagekit.spec.manifest import Manifest, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Made(Stage):
    """Concatenates its inputs and its own text; counts how often it ran."""

    title = "making"

    def __init__(self, name: str, needs: tuple[str, ...], text: str, fail: bool = False) -> None:
        self.name = name  # type: ignore[misc]
        self.needs = needs
        self.makes = (f"{name}.txt",)
        self.text = text
        self.fail = fail
        self.runs = 0

    def key(self) -> Mapping[str, Any]:
        return {"text": self.text}

    def run(self, run: StageRun) -> None:
        self.runs += 1
        (run.logs / "tool.log").write_text(f"log of {self.name}\n")
        if self.fail:
            raise ImagekitError("made to fail")
        parts = [run.inputs[n].read_text() for n in self.needs]
        (run.output / self.makes[0]).write_text("".join(parts) + self.text)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stages(last: str = "c", fail: bool = False) -> list[Made]:
    return [
        Made("three", ("two.txt", "one.txt"), last, fail),
        Made("one", (), "a"),
        Made("two", ("one.txt",), "b"),
    ]


def plan_of(made: list[Made]) -> Plan:
    return make_plan(made, [Target("three.txt", "out/three.txt", "disk")])


def run(made: list[Made], fresh: bool = False) -> dict[str, StageResult]:
    return execute(plan_of(made), Store(), Events(), guest="g", fresh=fresh, digest=digest)


def test_stages_run_in_the_order_of_their_needs() -> None:
    results = run(stages())
    assert list(results) == ["one", "two", "three"]
    assert results["three"].entry.files["three.txt"].read_text() == "abac"


def test_a_second_run_takes_everything_from_the_store() -> None:
    run(stages())
    again = stages()
    assert all(r.cached for r in run(again).values())
    assert [s.runs for s in again] == [0, 0, 0]


def test_a_change_reruns_only_what_depends_on_it() -> None:
    run(stages())
    changed = stages(last="d")
    run(changed)
    assert {s.name: s.runs for s in changed} == {"three": 1, "one": 0, "two": 0}


def test_a_stored_result_spares_its_inputs() -> None:
    run(stages())
    store = Store()
    plan = plan_of(stages())
    first = plan.maker("one.txt")
    (store.root / "objects" / first.key / "one.txt").write_text("changed on disk")
    assert needed(plan, store, fresh=False) == {"three": False}


def test_a_file_changed_in_the_store_is_made_again() -> None:
    run(stages())
    store = Store()
    last = plan_of(stages()).maker("three.txt")
    (store.root / "objects" / last.key / "three.txt").write_text("changed on disk")
    again = stages()
    results = run(again)
    assert results["three"].entry.files["three.txt"].read_text() == "abac"


def test_an_interrupted_build_resumes_at_the_stage_that_failed() -> None:
    with pytest.raises(ImagekitError):
        run(stages(fail=True))
    again = stages()
    run(again)
    assert {s.name: s.runs for s in again} == {"three": 1, "one": 0, "two": 0}


def test_a_failed_stage_leaves_its_log_and_nothing_in_the_store(cache: Path) -> None:
    with pytest.raises(ImagekitError):
        run(stages(fail=True))
    assert (cache / "logs/g-three/tool.log").read_text() == "log of three\n"
    assert list((cache / "store/tmp").iterdir()) == []
    assert list((cache / "work").iterdir()) == []


def test_fresh_runs_every_stage() -> None:
    run(stages())
    again = stages()
    run(again, fresh=True)
    assert [s.runs for s in again] == [1, 1, 1]


def test_plan_tells_which_part_of_the_key_changed() -> None:
    run(stages())
    planned = plan_of(stages(last="d")).maker("three.txt")
    assert why(planned, Store().last("g three")) == "changed: text"
    assert why(planned, None) == "never run"


def test_an_artefact_nobody_or_two_stages_make_is_an_error() -> None:
    with pytest.raises(ImagekitError, match="nobody"):
        make_plan([Made("x", ("missing",), "")], [])
    with pytest.raises(ImagekitError, match="both"):
        make_plan([Made("x", (), ""), Made("x", (), "")], [])


def deliver_to(out: Path, made: list[Made]) -> Manifest:
    plan = plan_of(made)
    results = execute(plan, Store(), Events(), guest="g", fresh=False, digest=digest)
    directory = BuildDirectory(out)
    directory.refuse_strangers("g", force=False)
    return deliver(plan, results, directory, Manifest(name="g"), _copy)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def test_delivery_writes_artefacts_logs_and_manifest(tmp_path: Path) -> None:
    manifest = deliver_to(tmp_path / "b", stages())
    assert read_manifest(tmp_path / "b") == manifest
    (disk,) = manifest.disks
    assert disk.path == "out/three.txt"
    assert disk.sha256 == digest(tmp_path / "b/out/three.txt")
    assert disk.size_bytes == 4
    logs = [log.path for log in manifest.having("log")]
    assert sorted(logs) == ["logs/one-tool.log", "logs/three-tool.log", "logs/two-tool.log"]
    assert BuildDirectory(tmp_path / "b").intact(plan_digest(plan_of(stages())))


def test_a_changed_artefact_is_not_overwritten_unasked(tmp_path: Path) -> None:
    deliver_to(tmp_path / "b", stages())
    (tmp_path / "b/out/three.txt").write_text("booted and written to")
    with pytest.raises(ExistsError, match="changed since"):
        deliver_to(tmp_path / "b", stages(last="d"))
    assert (tmp_path / "b/out/three.txt").read_text() == "booted and written to"


def test_a_directory_with_other_things_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/letter.txt").write_text("dear")
    with pytest.raises(ExistsError, match="is not a build directory"):
        deliver_to(tmp_path / "b", stages())
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["letter.txt"]


def test_two_directories_never_share_a_disk_and_a_written_one_is_made_anew(
    tmp_path: Path,
) -> None:
    deliver_to(tmp_path / "one", stages())
    deliver_to(tmp_path / "two", stages())
    first, second = tmp_path / "one/out/three.txt", tmp_path / "two/out/three.txt"
    assert first.stat().st_ino != second.stat().st_ino
    first.write_text("written by the guest")
    assert second.read_text() == "abac"
    again = stages()
    deliver_to(tmp_path / "three", again)
    assert (tmp_path / "three/out/three.txt").read_text() == "abac"
    assert {s.name: s.runs for s in again} == {"three": 1, "one": 0, "two": 0}


def test_a_failing_copy_leaves_no_half_artefact(tmp_path: Path) -> None:
    made = stages()
    plan = make_plan(made, [Target("three.txt", "out/three.txt", "kernel")])
    results = execute(plan, Store(), Events(), guest="g", fresh=False, digest=digest)

    def broken(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    with pytest.raises(ImagekitError, match="no space"):
        deliver(plan, results, BuildDirectory(tmp_path / "b"), Manifest(name="g"), broken)
    assert not (tmp_path / "b").exists()


def test_two_builds_into_one_directory_do_not_mix(tmp_path: Path) -> None:
    directory = BuildDirectory(tmp_path / "b")
    with directory.locked(), pytest.raises(BusyError), directory.locked():
        pytest.fail("locked twice")


def test_prune_removes_the_least_recently_used_first() -> None:
    run(stages())
    store = Store()
    plan = plan_of(stages())
    oldest = store.root / "objects" / plan.maker("two.txt").key / "object.json"
    os.utime(oldest, (1, 1))
    total = store.prune(1 << 40).left
    done = store.prune(total - 1)
    assert done.removed == 1
    assert done.left < total
    assert not oldest.exists()
    assert store.prune(0).removed == 2
    assert list((store.root / "objects").iterdir()) == []


def test_prune_leaves_what_a_running_build_uses() -> None:
    run(stages())
    plan = plan_of(stages())
    user = Store()
    entry = user.get(plan.maker("one.txt").key, ["one.txt"])
    assert entry is not None
    assert Store().prune(0).removed == 2
    assert entry.files["one.txt"].read_text() == "a"
    del user
    assert Store().prune(0).removed == 1


def test_secrets_are_masked_in_every_event() -> None:
    seen: list[Event] = []
    events = Events([lambda event: seen.append(event)])
    events.hide("hunter22")
    events.emit("note", text="the proxy is http://u:hunter22@p")
    assert "hunter22" not in seen[0].to_json()
    assert MASK in seen[0].to_json()


def test_a_workspace_releases_everything_even_on_a_signal(cache: Path) -> None:
    undone: list[str] = []
    with pytest.raises(Interrupted), workspace(Events()) as space:
        space.callback(lambda: undone.append("last"))
        kept = space.temporary("x")
        (kept / "file").write_text("x")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert undone == ["last"]
    assert list((cache / "work").iterdir()) == []


KILLED = """
import os, signal, sys, time
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.host.run import spawn
with workspace(Events()) as space:
    space.temporary("disk")
    memory = space.temporary("memory", size_bytes=1)
    with spawn(["sh", "-c", "setsid sleep 300 & echo $!; wait"]) as child:
        print(memory, child.stdout.readline().decode().strip(), flush=True)
        time.sleep(300)
"""


def state_of(process: str) -> str | None:
    """One letter of proc(5), or None when there is no such process."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rsplit(")", 1)[1].split()[0]


def test_what_a_sigkill_leaves_is_swept_by_the_next_run(cache: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    memory, grandchild = child.stdout.readline().split()
    child.kill()
    child.wait()
    child.stdout.close()
    assert Path(memory).exists()
    assert len(sweep(cache / "work")) == 1
    assert not Path(memory).exists()
    assert list((cache / "work").iterdir()) == []
    deadline = time.monotonic() + 30
    while (state := state_of(grandchild)) not in (None, "Z"):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
