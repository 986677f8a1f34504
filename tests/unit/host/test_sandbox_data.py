"""What a sandbox is told, and how a bound that was reached is worded."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import pwd
from pathlib import Path

import pytest

from imagekit.errors import HostError
from imagekit.host.run import Completed
from imagekit.host.sandbox import bounds, ids, means, profiles
from imagekit.host.sandbox.box import Sandbox, runs_i386
from imagekit.host.sandbox.child.filesystem import SandboxError, mount_points
from imagekit.host.sandbox.child.job import Job, Limits, Mount, Watched, from_json
from imagekit.host.sandbox.profiles import Profile

PROFILES = {k: v for k, v in vars(profiles).items() if isinstance(v, Profile)}
# linux/capability.h
NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN = 12, 13, 16, 17, 19, 21
SYS_BOOT, SYS_TIME, MKNOD, SYSLOG, BPF, PERFMON = 22, 25, 27, 34, 39, 38


@pytest.mark.parametrize("name", PROFILES)
def test_no_purpose_keeps_a_capability_over_the_host(name: str) -> None:
    kept = set(PROFILES[name].kept)
    assert not kept & {NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_BOOT, SYS_TIME}
    assert not kept & {SYSLOG, BPF, PERFMON}


def test_only_what_makes_root_file_systems_mounts_and_only_devices_are_without_namespace() -> None:
    assert {p.name for p in PROFILES.values() if SYS_ADMIN in p.kept} == {
        "root element",
        "block device",
    }
    assert {p.name for p in PROFILES.values() if MKNOD in p.kept} == {"block device"}
    assert {p.name for p in PROFILES.values() if not p.user_namespace} == {"block device"}


def test_a_gigabyte_is_more_than_what_strangers_code_may_take() -> None:
    for profile in (profiles.SCRIPT, profiles.PACKAGES, profiles.INITRD, profiles.ELEMENT):
        assert profile.memory < profiles.GIB


@pytest.mark.parametrize(
    ("uids", "gids", "base"),
    [
        ("", "", None),
        ("root:300000:65536\n", "root:300000:65536\n", 300000),
        ("0:300000:65536\n", "root:300000:70000\n", 300000),
        ("root:300000:65535\n", "root:300000:65536\n", None),
        ("root:300000:65536\n", "root:400000:65536\n", None),
        ("root:1:65536\nroot:400000:65536\n", "root:400000:65536\n", 400000),
        ("ann:300000:65536\n", "ann:300000:65536\n", None),
        ("root:x:65536\nroot\n::\n", "root:300000:\n", None),
    ],
)
def test_roots_subordinate_ids_are_those_that_both_tables_give(
    uids: str, gids: str, base: int | None
) -> None:
    assert ids.subordinate((uids, gids)) == base


def test_ids_that_an_account_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Account:
        pw_name, pw_uid = "ann", ids.FIXED_BASE + 65535

    monkeypatch.setattr(ids, "BOTH", ("/none/a", "/none/b"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [Account])
    ids.first_id.cache_clear()
    with pytest.raises(HostError, match="user ann has one") as caught:
        ids.first_id()
    ids.first_id.cache_clear()
    assert "--add-subuids" in str(caught.value.hint)


V1_GROUPS = "5:pids:/\n4:memory:/a/b\n1:name=systemd:/\n0::/\n"
V1_MOUNTS = """\
30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 29 0:27 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
32 29 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 29 0:29 / /tmp rw - tmpfs memory rw
"""


def parents(tmp_path: Path, groups: str, mounts: str) -> list[Path]:
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mounts)
    return bounds.parents(tmp_path / "cgroup", tmp_path / "mountinfo")


def test_version_1_has_a_group_in_each_of_two_hierarchies(tmp_path: Path) -> None:
    found = parents(tmp_path, V1_GROUPS, V1_MOUNTS)
    assert found == [Path("/sys/fs/cgroup/memory/a/b"), Path("/sys/fs/cgroup/pids")]


def test_version_1_without_one_of_the_controllers_has_none(tmp_path: Path) -> None:
    mounts = "\n".join(x for x in V1_MOUNTS.splitlines() if "pids" not in x)
    assert parents(tmp_path, V1_GROUPS, mounts) == []


def test_version_1_in_a_container_is_below_what_is_mounted(tmp_path: Path) -> None:
    mounts = V1_MOUNTS.replace("0:26 / /sys", "0:26 /a /sys")
    assert parents(tmp_path, V1_GROUPS, mounts)[0] == Path("/sys/fs/cgroup/memory/b")


@pytest.mark.parametrize(
    ("controllers", "found"),
    [
        ({"": "memory pids cpu"}, ""),
        ({"": "memory pids", "user.slice": "cpu pids memory"}, "user.slice"),
        ({"": "memory", "user.slice": "pids"}, None),
        ({}, None),
    ],
)
def test_version_2_has_a_group_where_children_have_both_controllers(
    tmp_path: Path, controllers: dict[str, str], found: str | None
) -> None:
    top = tmp_path / "cgroup2"
    (top / "user.slice/own.scope").mkdir(parents=True)
    for name, text in controllers.items():
        (top / name / "cgroup.subtree_control").write_text(text)
    mounts = f"30 29 0:26 / {top} rw,relatime - cgroup2 cgroup2 rw\n"
    wanted = [] if found is None else [top / found if found else top]
    assert parents(tmp_path, "0::/user.slice/own.scope\n", mounts) == wanted


def test_what_is_watched_is_what_the_group_has(tmp_path: Path) -> None:
    for name in ("memory.stat", "memory.events", "pids.events"):
        (tmp_path / name).touch()
    watched = bounds.Group((tmp_path,)).watched(5)
    assert {(Path(w.path).name, w.key, w.most, w.name) for w in watched} == {
        ("memory.stat", "anon", 5, "memory"),
        ("memory.stat", "rss", 5, "memory"),
        ("memory.events", "oom_kill", 0, "memory"),
        ("pids.events", "max", 0, "processes"),
    }


def job(root: Path, *mounts: Mount, empty: bool = False) -> Job:
    return Job(
        root=str(root),
        empty=empty,
        mounts=list(mounts),
        links=[("/bin", "usr/bin")],
        argv=["true", "\udcff"],
        env={"A": "b"},
        cwd="/",
        kept=[0, 1],
        mounting=False,
        user_namespace=True,
        base=5,
        recursive=False,
        sysfs=True,
        limits=Limits(None, 2, 3, 4, 5, 6),
        join=["/x"],
        watched=[Watched("/x", "key", 0, "memory")],
        network="none",
        net=None,
        user=7,
        later=[("/a", "/b")],
        filters=["AAAA"],
        report=8,
        parent=9,
    )


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = job(tmp_path, Mount("/a", "/b", read_only=True, mapped=False))
    read = from_json(json.loads(json.dumps(made)))
    assert read == made
    assert isinstance(read.mounts[0], Mount)
    assert isinstance(read.limits, Limits)
    assert isinstance(read.watched[0], Watched)


def test_mount_points_are_made_in_what_holds_them(tmp_path: Path) -> None:
    for name in ("tree", "outer", "inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    mounts = [
        Mount(str(tmp_path / "outer"), "/a/b", read_only=False, mapped=True),
        Mount(str(tmp_path / "inner"), "/a/b/c", read_only=False, mapped=True),
        Mount(str(tmp_path / "file"), "/a/b/c/d", read_only=True, mapped=True),
        Mount(str(tmp_path / "file"), "/etc/x", read_only=True, mapped=True),
    ]
    mount_points(job(tmp_path / "tree", *mounts))
    found = {str(p.relative_to(tmp_path)): p.is_dir() for p in tmp_path.rglob("*")}
    fixed = {f"tree/{name}": True for name in ("proc", "sys", "dev", "run", "tmp")}
    assert found == {
        **fixed,
        **{name: True for name in ("tree", "outer", "inner", "tree/a", "tree/a/b", "outer/c")},
        **{"tree/etc": True, "tree/etc/x": False, "inner/d": False, "file": False},
    }


def test_an_empty_root_is_not_prepared_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    source = Mount(str(tmp_path / "root"), "/a", read_only=False, mapped=True)
    mount_points(job(tmp_path / "root", source, empty=True))
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "run", "tmp", "a", "a/b"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "file"])
def test_nothing_is_mounted_through_links_of_a_tree(tmp_path: Path, name: str, kind: str) -> None:
    tree, host = tmp_path / "tree", tmp_path / "host"
    (tree / name).parent.mkdir(parents=True)
    host.mkdir()
    if kind == "file":
        (tree / name).touch()
    else:
        (tree / name).symlink_to(host if kind == "link" else tmp_path / "none")
    mount = Mount(str(host), "/a/b/c", read_only=True, mapped=True)
    with pytest.raises(SandboxError, match="is not a directory"):
        mount_points(job(tree, mount))
    assert list(host.iterdir()) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_file_is_mounted_on_a_file(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "file").touch()
    if kind == "link":
        (tree / "x").symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(tree / "x")
    else:
        (tree / "x").mkdir()
    with pytest.raises(SandboxError, match="is not a file"):
        mount_points(job(tree, Mount(str(tmp_path / "file"), "/x", read_only=True, mapped=True)))


@pytest.mark.parametrize(
    ("environment", "found"),
    [({}, 5 << 20), ({"IMAGEKIT_SANDBOX_MEMORY": "4096"}, 4 << 30), ({"OTHER": "1"}, 5 << 20)],
)
def test_the_bound_on_memory_can_be_set(environment: dict[str, str], found: int) -> None:
    assert bounds.memory_of(5 << 20, environment) == found


@pytest.mark.parametrize("text", ["", "0", "-1", "4GiB", "1e9", " 2048", "\u0664\u0660", "9" * 9])
def test_a_bound_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="no number of MiB"):
        bounds.memory_of(5, {bounds.VARIABLE: text})


SMALL = dataclasses.replace(profiles.SCRIPT, memory=5 << 20, processes=7, cpu_seconds=3)


@pytest.mark.parametrize(
    ("said", "status", "output", "grouped", "words"),
    [
        (["memory"], -9, b"", True, "5 MiB of memory"),
        (["identity", "processes"], 0, b"", True, "7 processes"),
        (["disk"], -9, b"", True, "256 MiB that stay free"),
        (["cpu"], -9, b"", True, "3 s of processor time"),
        ([], -24, b"", True, "3 s of processor time"),
        ([], 153, b"", True, "MiB for a file"),
        ([], 1, b"x: Cannot allocate memory\n", False, "5 MiB of memory"),
        ([], 1, b"sh: 1: Cannot fork\n", False, "7 processes"),
        ([], 1, b"x: Cannot allocate memory\n", True, None),
        ([], 0, b"x: Cannot allocate memory\n", False, None),
        (["identity"], 1, b"", True, None),
        (["anything"], -9, b"", True, None),
    ],
)
def test_a_bound_is_worded(
    said: list[str], status: int, output: bytes, grouped: bool, words: str | None
) -> None:
    done = Completed(("x",), status, b"", output, 1.0)
    told = Sandbox(Path("/t"), SMALL)._bound(done, said, grouped=grouped)
    assert (told is None) if words is None else (told is not None and words in told)


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = {name: (f"no {name} here", "do this") for name in names}
    monkeypatch.setattr(means, "missing", lambda: found)


@pytest.mark.parametrize("name", [means.USER_NAMESPACE, means.FILTER])
def test_what_is_missing_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lacking(monkeypatch, name)
    with pytest.raises(HostError, match=f"no {name} here") as caught:
        means.means()
    assert str(caught.value.hint).startswith("do this; --allow-unsandboxed")


def test_what_is_missing_is_done_without_when_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking(monkeypatch, means.USER_NAMESPACE, means.FILTER)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with means.allow_unsandboxed() as gone:
        assert gone == []
        assert means.means() == means.Means(user_namespace=False, filter=False)
        assert means.means() == means.Means(user_namespace=False, filter=False)
        assert gone == [means.USER_NAMESPACE, means.FILTER]
        assert means.lost() == tuple(gone)
    assert means.lost() == ()
    with pytest.raises(HostError):
        means.means()


def test_an_ordinary_user_has_no_sandbox_without_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking(monkeypatch, means.USER_NAMESPACE)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with means.allow_unsandboxed(), pytest.raises(HostError):
        means.means()


def test_nothing_is_lost_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch)
    with means.allow_unsandboxed() as gone:
        assert means.means() == means.Means(user_namespace=True, filter=True)
        assert gone == []


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-18-amd64", (6, 1)), ("5.12", (5, 12)), ("6.18.44-fc", (6, 18)), ("odd", (0, 0))],
)
def test_the_kernels_version_is_read(
    monkeypatch: pytest.MonkeyPatch, release: str, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert means.kernel_version() == version


@pytest.mark.parametrize(
    ("shell", "narrow"),
    [
        (b"\x7fELF\x01\x01", True),
        (b"\x7fELF\x02\x01", False),
        (b"#!/x", False),
        (b"", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_the_shell_tells_whether_a_tree_is_of_i386(
    tmp_path: Path, shell: bytes | None, narrow: bool, link: bool
) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    if shell is not None:
        (tmp_path / "usr/bin/dash").write_bytes(shell)
        (tmp_path / "usr/bin/sh").symlink_to("/bin/dash" if link else "dash")
    assert runs_i386(tmp_path) is narrow


@pytest.mark.parametrize("kind", ["a host's program", "a fifo", "a device", "a loop"])
def test_the_shell_of_a_hostile_tree_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tmp_path / "sh").write_bytes(b"\x7fELF\x01")
    if kind == "a fifo":
        os.mkfifo(tree / "bin/sh")
    else:
        targets = {"a host's program": str(tmp_path / "sh"), "a device": "/dev/tty", "a loop": "sh"}
        (tree / "bin/sh").symlink_to(targets[kind])
    assert runs_i386(tree) is False
