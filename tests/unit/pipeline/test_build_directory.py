"""Build directories that somebody else could write to, and what they may have left there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from support.damage import flip

from imagekit.errors import ExistsError, HostError, ImagekitError, SpecError
from imagekit.host import ownership
from imagekit.pipeline.build_directory import STATE, BuildDirectory, is_plain
from imagekit.pipeline.deliver import deliver, plan_digest, rewrite_manifest
from imagekit.pipeline.execute import StageResult
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.pipeline.store import Entry, Store
from imagekit.spec.manifest import Manifest, read_manifest


class Disk(Stage):
    """Makes a disk; the file is put into the store by hand."""

    name = "disk"
    title = "making a disk"
    makes = ("disk.raw",)

    def key(self) -> dict[str, object]:
        return {}

    def run(self, run: StageRun) -> None:
        raise AssertionError(run)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_UID", raising=False)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_text("precious")
    (path / "disk.raw").write_text("precious")
    return path


def built(tmp_path: Path, target: str = "out/disk.raw") -> tuple[Plan, dict[str, StageResult]]:
    plan = make_plan([Disk()], [Target("disk.raw", target, "disk", 0o600)])
    store = Store()
    output = store.new_output()
    (output / "disk.raw").write_text("a disk")
    (output / "logs").mkdir()
    (output / "logs/tool.log").write_text("done\n")
    entry: Entry = store.put("0" * 64, output, ["disk.raw"], {})
    return plan, {"disk": StageResult(plan.stages[0], entry, cached=False, seconds=0.0)}


def copied(source: Path, target: Path) -> None:
    with target.open("xb") as stream:
        stream.write(source.read_bytes())


def delivered(
    tmp_path: Path, out: Path, *, force: bool = False, target: str = "out/disk.raw"
) -> None:
    directory = BuildDirectory(out)
    directory.refuse_strangers("g", force=force)
    plan, results = built(tmp_path, target)
    deliver(plan, results, directory, Manifest(name="g"), copied)


@pytest.mark.parametrize(
    "name",
    ["../victim/file", "/etc/hostname", "a/../../victim/file", "", ".", "..", "a\0b", "./", "a\nb"],
)
@pytest.mark.parametrize("force", [True, False])
def test_a_state_that_names_what_is_no_file_of_a_build_deletes_nothing(
    tmp_path: Path, victim: Path, name: str, force: bool
) -> None:
    out = tmp_path / "b"
    delivered(tmp_path, out)
    state = {"name": "g", "delivering": True, "fingerprints": {name: [1, 2, 3]}}
    (out / STATE).write_text(json.dumps(state))
    with pytest.raises(SpecError, match="no file of a build"):
        delivered(tmp_path, out, force=force)
    assert (victim / "file").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "large"])
def test_a_state_that_is_no_regular_file_is_refused_and_nothing_waits(
    tmp_path: Path, victim: Path, kind: str
) -> None:
    out = tmp_path / "b"
    delivered(tmp_path, out)
    (out / STATE).unlink()
    if kind == "link":
        (victim / "file").write_text(json.dumps({"name": "g", "fingerprints": {}}))
        (out / STATE).symlink_to(victim / "file")
    elif kind == "fifo":
        os.mkfifo(out / STATE)
    elif kind == "directory":
        (out / STATE).mkdir()
    else:
        os.truncate(os.open(out / STATE, os.O_CREAT | os.O_WRONLY), (16 << 20) + 1)
    with pytest.raises(SpecError, match=r"b/\.imagekit-state\.json"):
        delivered(tmp_path, out)


def test_what_earlier_builds_made_goes_but_not_behind_links(tmp_path: Path, victim: Path) -> None:
    out = tmp_path / "b"
    delivered(tmp_path, out)
    (out / "old.raw").write_text("old")
    (out / "elsewhere").symlink_to(victim)
    prints = {"old.raw": [0, 0, 0], "elsewhere/file": [0, 0, 0]}
    state = {"name": "g", "delivering": False, "fingerprints": prints}
    (out / STATE).write_text(json.dumps(state))
    delivered(tmp_path, out, force=True)
    assert not (out / "old.raw").exists()
    assert (victim / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "planted",
    [
        *("out/.imagekit-disk.raw.part", "out/disk.raw", "logs/.imagekit-disk-tool.log.part"),
        *("logs/disk-tool.log", ".imagekit-manifest.json", ".imagekit-SHA256SUMS"),
        *(".imagekit-state.json.part", "manifest.json", "SHA256SUMS", "SHA256SUMS.sig"),
    ],
)
def test_planted_links_are_replaced_and_never_written_through(
    tmp_path: Path, victim: Path, planted: str
) -> None:
    out = tmp_path / "b"
    (out / planted).parent.mkdir(parents=True)
    (out / planted).symlink_to(victim / "file")
    delivered(tmp_path, out, force=True)
    assert (victim / "file").read_text() == "precious"
    assert (victim / "file").stat().st_mode & 0o777 == 0o644
    assert (out / "out/disk.raw").read_text() == "a disk"
    assert read_manifest(out).name == "g"


@pytest.mark.parametrize("folder", ["out", "logs"])
def test_a_folder_that_is_a_link_is_refused(tmp_path: Path, victim: Path, folder: str) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / folder).symlink_to(victim)
    with pytest.raises(HostError, match="cannot write"):
        delivered(tmp_path, out, force=True)
    assert {p.name: p.read_text() for p in victim.iterdir()} == {
        "file": "precious",
        "disk.raw": "precious",
    }


@pytest.mark.parametrize("target", ["../x", "/x", "a/../../x", ""])
def test_no_target_leaves_the_directory(tmp_path: Path, target: str) -> None:
    with pytest.raises(ImagekitError):
        delivered(tmp_path, tmp_path / "b", target=target)
    assert not (tmp_path / "x").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize("force", [True, False])
def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    out = tmp_path / "b"
    delivered(tmp_path, out)
    before = (out / "manifest.json").read_bytes()
    monkeypatch.setattr(ownership, "trusted_owners", lambda: frozenset({64001}))
    with pytest.raises(HostError, match=r"belongs to (.|\n)*-o"):
        delivered(tmp_path, out, force=force)
    with pytest.raises(HostError, match="belongs to"):
        BuildDirectory(out).intact("x")
    with pytest.raises(HostError, match="belongs to"):
        rewrite_manifest(BuildDirectory(out), Manifest(name="h"))
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_builds_for_the_user_who_called_sudo_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b"
    out.mkdir()
    os.chown(out, 64001, 64001)
    with pytest.raises(HostError, match="belongs to uid 64001"):
        delivered(tmp_path, out)
    monkeypatch.setenv("SUDO_UID", "64001")
    delivered(tmp_path, out)
    assert (out / "out/disk.raw").read_text() == "a disk"


def test_a_directory_that_everybody_writes_to_is_refused_unless_it_is_sticky(
    tmp_path: Path,
) -> None:
    out = tmp_path / "b"
    out.mkdir()
    out.chmod(0o777)
    with pytest.raises(HostError, match=r"writable for everybody(.|\n)*chmod go-w"):
        delivered(tmp_path, out, force=True)
    assert list(out.iterdir()) == []
    out.chmod(0o1777)
    delivered(tmp_path, out)


def test_what_is_made_anew_is_not_writable_for_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        delivered(tmp_path, tmp_path / "b")
    finally:
        os.umask(before)
    made = [tmp_path / "b", *(tmp_path / "b").rglob("*")]
    assert [p for p in made if p.stat().st_mode & 0o022] == []
    delivered(tmp_path, tmp_path / "b")


@pytest.mark.parametrize("existed", [True, False])
def test_a_directory_that_is_replaced_while_the_build_runs_is_not_written_to(
    tmp_path: Path, victim: Path, existed: bool
) -> None:
    out = tmp_path / "b"
    if existed:
        out.mkdir()
    directory = BuildDirectory(out)
    directory.refuse_strangers("g", force=False)
    if existed:
        out.rmdir()
    out.symlink_to(victim)
    plan, results = built(tmp_path)
    with pytest.raises(HostError, match="another directory"):
        deliver(plan, results, directory, Manifest(name="g"), copied)
    assert sorted(p.name for p in victim.iterdir()) == ["disk.raw", "file"]


def test_one_s_own_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "b").symlink_to("real")
    delivered(tmp_path, tmp_path / "b")
    delivered(tmp_path, tmp_path / "b")
    assert (tmp_path / "real/out/disk.raw").read_text() == "a disk"


def test_who_swaps_folders_and_files_meanwhile_gets_no_write_elsewhere(
    tmp_path: Path, victim: Path
) -> None:
    out, stop = tmp_path / "b", threading.Event()
    delivered(tmp_path, out)

    def swap() -> None:
        part = out / "out/.imagekit-disk.raw.part"
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (out / "out").rename(out / "kept")
            with contextlib.suppress(OSError):
                (out / "out").symlink_to(victim)
            with contextlib.suppress(OSError):
                (out / "out").unlink()
            with contextlib.suppress(OSError):
                (out / "kept").rename(out / "out")
            with contextlib.suppress(OSError):
                part.unlink()
                part.symlink_to(victim / "file")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(40):
            with contextlib.suppress(ImagekitError, ExistsError):
                delivered(tmp_path, out, force=True)
    finally:
        stop.set()
        thread.join()
    assert {p.name: p.read_text() for p in victim.iterdir()} == {
        "file": "precious",
        "disk.raw": "precious",
    }
    assert (victim / "file").stat().st_mode & 0o777 == 0o644


def test_an_error_names_the_artefact_and_no_descriptor(tmp_path: Path) -> None:
    plan, results = built(tmp_path)

    def full(source: Path, target: Path) -> None:
        raise HostError("no space left on the device", where=str(target))

    results["disk"].entry.files["disk.raw"].with_name("second").hardlink_to(
        results["disk"].entry.files["disk.raw"]
    )
    with pytest.raises(HostError) as caught:
        deliver(plan, results, BuildDirectory(tmp_path / "b"), Manifest(name="g"), full)
    assert caught.value.where == str(tmp_path / "b/disk.raw")


@pytest.mark.parametrize("name", ["disk.raw", "logs/x.log", "a/b/c", ".hidden"])
def test_files_below_are_plain(name: str) -> None:
    assert is_plain(name)


def copy_of(out: Path, target: Path, how: str = "-a") -> BuildDirectory:
    subprocess.run(["cp", how, out, target], check=True)
    return BuildDirectory(target)


@pytest.mark.parametrize("how", ["-a", "-r"])
def test_a_copied_build_is_whole_and_read_once(tmp_path: Path, how: str) -> None:
    delivered(tmp_path, tmp_path / "b")
    digest = plan_digest(built(tmp_path)[0])
    copy = copy_of(tmp_path / "b", tmp_path / "c", how)
    assert copy.intact(digest)
    copy.refuse_strangers("g", force=False)
    again = BuildDirectory(copy.path, lambda path: pytest.fail(f"{path} is read again"))
    assert again.intact(digest)


@pytest.mark.parametrize("name", ["out/disk.raw", "manifest.json", "SHA256SUMS"])
def test_a_copy_that_lost_a_byte_is_made_again(tmp_path: Path, name: str) -> None:
    delivered(tmp_path, tmp_path / "b")
    digest = plan_digest(built(tmp_path)[0])
    copy = copy_of(tmp_path / "b", tmp_path / "c")
    flip(copy.path / name)
    assert not copy.intact(digest)
    copy.refuse_strangers("g", force=False)


def test_verify_finds_what_the_marks_do_not_tell(tmp_path: Path) -> None:
    delivered(tmp_path, tmp_path / "b")
    digest = plan_digest(built(tmp_path)[0])
    directory = BuildDirectory(tmp_path / "b")
    flip(tmp_path / "b/out/disk.raw")
    assert directory.intact(digest)
    assert not directory.intact(digest, verify=True)


def test_a_copy_that_was_written_to_is_not_overwritten(tmp_path: Path) -> None:
    delivered(tmp_path, tmp_path / "b")
    copy = copy_of(tmp_path / "b", tmp_path / "c", "-r")
    with (copy.path / "out/disk.raw").open("r+b") as stream:
        stream.write(b"A")
    assert not copy.intact(plan_digest(built(tmp_path)[0]))
    with pytest.raises(ExistsError, match="was changed since"):
        copy.refuse_strangers("g", force=False)


def test_what_was_touched_and_is_the_same_is_whole(tmp_path: Path) -> None:
    delivered(tmp_path, tmp_path / "b")
    os.utime(tmp_path / "b/out/disk.raw")
    directory = BuildDirectory(tmp_path / "b")
    directory.refuse_strangers("g", force=False)
    assert directory.intact(plan_digest(built(tmp_path)[0]))
