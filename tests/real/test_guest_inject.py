"""Changing real images, with an appliance and without, read back by debugfs, qemu-img, libvhdi."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oracles.guest_images import content, debian_tree, debugfs, partitioned

from imagekit.disk.qcow2 import write_qcow2
from imagekit.disk.vhd import read_vhd, write_vhd
from imagekit.errors import BusyError, GuestError
from imagekit.guest.changes import (
    Change,
    Copy,
    Hostname,
    Mkdir,
    Remove,
    RunScript,
    SshKey,
    Write,
)
from imagekit.guest.inject import inject
from imagekit.guest.sshkeys import parse_keys
from imagekit.guest.working import working_copy
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian-like image with links that try to lead a write astray."""
    directory = tmp_path_factory.mktemp("guest")
    tree = debian_tree()
    tree.links |= {
        "data": "/srv/real",
        "escape": "../../../../outside",
        "home/trap/.ssh": "/etc",
        "etc/loop": "/etc/loop",
        "var/run": "/run",
    }
    tree.directories += ["srv/real"]
    return partitioned(tree, directory / "base.raw", directory)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    with workspace(Events()) as opened:
        yield opened


def copy_of(image: Path, directory: Path) -> Path:
    target = directory / "guest.raw"
    subprocess.run(["cp", "--sparse=always", image, target], check=True)
    return target


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(directory: Path) -> list[str]:
    return [p.name for p in directory.iterdir() if p.name.startswith(".")]


def test_all_changes_land_in_one_go_with_modes_owners_and_links_respected(
    base: Path, key: str, tmp_path: Path, space: Workspace
) -> None:
    packed, image = tmp_path / "guest.qcow2", tmp_path / "after.raw"
    write_qcow2(base, packed)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/run.sh").write_text("#!/bin/sh\n")
    (tree / "sub/run.sh").chmod(0o750)
    (tree / "link").symlink_to("sub/run.sh")
    source = tmp_path / "plain"
    source.write_text("plain\n")
    keys = parse_keys(key)
    done = inject(
        packed,
        "qcow2",
        [
            Mkdir("/srv/www/site", 0o750, "web:www-data"),
            Copy(source, "/data/plain", 0o640, "web:www-data"),
            Copy(tree, "/opt/tree"),
            Write("/etc/motd", b"new motd\n"),
            Write("/etc/localtime", b"replaced\n"),
            Remove("/etc/debian_version.bak"),
            Hostname("web01.example.org"),
            SshKey("root", keys),
            SshKey("web", keys),
            SshKey("web", keys),
            RunScript("first.sh", b"#!/bin/sh\necho from the guest; cat /etc/motd >/script-ran\n"),
            Remove("/var/log"),
        ],
        workspace=space,
    )
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", packed], check=True)
    argv: list[str | Path] = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", packed, image]
    subprocess.run(argv, check=True)
    assert done.root == "partition 1"
    assert done.outputs == (("first.sh", "from the guest\n"),)
    assert content(image, "/etc/motd") == "new motd\n"
    assert content(image, "/script-ran") == "new motd\n"
    assert content(image, "/srv/real/plain") == "plain\n"
    assert content(image, "/etc/hostname") == "web01\n"
    assert "127.0.1.1\tweb01.example.org web01\n" in content(image, "/etc/hosts")
    assert "oldname" not in content(image, "/etc/hosts")
    # A link that was the last name is replaced, not written through.
    assert content(image, "/etc/localtime") == "replaced\n"
    assert "zoneinfo" not in debugfs(image, "ls /usr/share")
    assert content(image, "/home/web/.ssh/authorized_keys") == key
    facts = {
        "/srv/real/plain": ("0640", "1000", "33"),
        "/srv/www/site": ("0750", "1000", "33"),
        "/etc/motd": ("0644", "0", "0"),
        "/opt/tree/sub/run.sh": ("0750", "0", "0"),
        "/home/web/.ssh": ("0700", "1000", "1000"),
        "/home/web/.ssh/authorized_keys": ("0600", "1000", "1000"),
        "/root/.ssh/authorized_keys": ("0600", "0", "0"),
    }
    for path, (mode, uid, gid) in facts.items():
        status = " ".join(debugfs(image, f"stat {path}").split())
        assert f"Mode: {mode}" in status, path
        assert f"User: {uid} Group: {gid}" in status, path
    assert 'Fast link dest: "sub/run.sh"' in debugfs(image, "stat /opt/tree/link")
    listing = debugfs(image, "ls -p /") + debugfs(image, "ls -p /etc")
    assert ".imagekit" not in listing
    assert "/log/" not in debugfs(image, "ls -p /var")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Write("/escape/file", b"x"), "leads out of the guest"),
        (Write("/etc/loop/file", b"x"), "too many symbolic links"),
        (Write("/var/run/file", b"x"), "mounted over at boot"),
        (Write("/etc", b"x"), "is a directory"),
        (Write("/etc/motd/file", b"x"), "not a directory"),
        (SshKey("nobody-here", ()), "no user nobody-here"),
        (SshKey("trap", ()), "symbolic link"),
        (RunScript("bad.sh", b"#!/bin/sh\necho why it failed >&2\nexit 3\n"), "why it failed"),
    ],
)
def test_a_refused_change_is_explained(change: Change, says: str, refusals: dict[str, str]) -> None:
    assert says in refusals[str(change)]


@pytest.fixture(scope="module")
def refusals(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Message of every refused change, all tried in one appliance on one working copy."""
    from imagekit.guest.appliance import Drive, appliance
    from imagekit.guest.apply import apply
    from imagekit.guest.backends.appliance import ApplianceFiles, run_in_appliance
    from imagekit.guest.mounts import mount_guest

    directory = tmp_path_factory.mktemp("refused")
    image = copy_of(base, directory)
    before = digest(image)
    marks: Any = getattr(test_a_refused_change_is_explained, "pytestmark")  # noqa: B009
    changes = marks[0].args[1]
    messages = {}
    with (
        workspace(Events(), directory / "work") as space,
        working_copy(image, "raw", workspace=space) as copy,
        appliance([Drive(copy.path, copy.format, readonly=False)], workspace=space) as app,
    ):
        root = mount_guest(app, None, readonly=False)
        files = ApplianceFiles(app)

        def run_it(script: RunScript) -> None:
            run_in_appliance(script, files, root.arch)

        for change, _ in changes:
            with pytest.raises(GuestError) as caught:
                apply(change, files, run_it)
            messages[str(change)] = str(caught.value)
    assert digest(image) == before
    assert leftovers(directory) == []
    return messages


def test_a_failing_script_leaves_the_image_byte_for_byte_as_it_was(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    before = digest(image), image.stat().st_mtime_ns
    with pytest.raises(GuestError, match="exit 7"):
        inject(
            image,
            "raw",
            [Write("/etc/motd", b"lost\n"), RunScript("fail", b"#!/bin/sh\nexit 7\n")],
            workspace=space,
        )
    assert (digest(image), image.stat().st_mtime_ns) == before
    assert leftovers(tmp_path) == []


def test_a_vhd_keeps_its_size_identity_and_permissions(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = tmp_path / "guest.vhd"
    write_vhd(base, image)
    image.chmod(0o640)
    before = subprocess.run(["vhdiinfo", image], check=True, capture_output=True, text=True).stdout
    inject(image, "vhd", [Write("/etc/motd", b"in a vhd\n")], workspace=space)
    after = subprocess.run(["vhdiinfo", image], check=True, capture_output=True, text=True).stdout
    assert after == before
    assert image.stat().st_mode & 0o777 == 0o640
    raw = tmp_path / "back.raw"
    read_vhd(image, raw)
    assert content(raw, "/etc/motd") == "in a vhd\n"
    compared = subprocess.run(["qemu-img", "compare", "-f", "vpc", "-F", "raw", image, raw])
    assert compared.returncode == 0
    assert leftovers(tmp_path) == []


def test_a_commit_that_was_killed_is_finished_by_the_next_run(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    motd = debugfs(image, "blocks /etc/motd").split()[0]
    overlay = tmp_path / ".guest.raw.imagekit-redo"
    argv: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        image,
        overlay,
    ]
    subprocess.run(argv, check=True)
    overlay.chmod(0o600)
    offset = (1 << 20) + int(motd) * int(debugfs(image, "stats").split("Block size:")[1].split()[0])
    write: list[str | Path] = [
        "qemu-io",
        "-f",
        "qcow2",
        "-c",
        f"write -P 0x41 {offset} 4096",
        overlay,
    ]
    subprocess.run(write, check=True, capture_output=True)
    done = inject(image, "raw", [], workspace=space)
    assert "finished" in done.notes[0]
    assert content(image, "/etc/motd") == "A" * 9
    assert leftovers(tmp_path) == []


def test_an_image_attached_or_locked_is_left_alone(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    with working_copy(image, "raw", workspace=space):  # noqa: SIM117
        with pytest.raises(BusyError), working_copy(image, "raw", workspace=space):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_ends_qemu_and_leaves_nothing(
    number: signal.Signals, base: Path, tmp_path: Path
) -> None:
    image = copy_of(base, tmp_path)
    before = digest(image)
    program = Path(sys.executable).with_name("python")
    code = (
        "import typer; from imagekit.cli.inject import inject; app = typer.Typer();"
        "app.command()(inject); app()"
    )
    environment = {**os.environ, "IMAGEKIT_CACHE": str(tmp_path / "cache")}
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho never >/etc/motd\n")
    child = subprocess.Popen(
        [program, "-c", code, image, "--script", script],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not qemu_of(image) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.1)
    assert qemu_of(image), "the appliance never started"
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode != 0
    if number == signal.SIGKILL:
        # Nothing of ours ran any more: the next run sweeps.
        subprocess.run([program, "-c", code, image], env=environment, check=True)
    deadline = time.monotonic() + 10
    while qemu_of(image) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not qemu_of(image)
    assert digest(image) == before
    assert leftovers(tmp_path) == []
    assert not any((tmp_path / "cache/work").iterdir())


@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.0, 1.2, 1.6])
def test_a_kill_without_an_appliance_leaves_all_or_nothing(
    seconds: float, base: Path, tmp_path: Path
) -> None:
    image = copy_of(base, tmp_path)
    program = Path(sys.executable).with_name("python")
    (tmp_path / "data").write_bytes(bytes(range(256)) * 8192)
    argv: list[str | Path] = [program, "-m", "imagekit", "inject", image]
    more = ["--write", "/etc/motd:new", "--copy", f"{tmp_path}/data:/opt/data"]
    environment = {**os.environ, "IMAGEKIT_CACHE": str(tmp_path / "cache")}
    child = subprocess.Popen(
        [*argv, *more], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    subprocess.run(argv, env=environment, check=True)
    changed = content(image, "/etc/motd") == "new\n"
    assert changed or content(image, "/etc/motd") == "old motd\n"
    assert ("/data/" in debugfs(image, "ls -p /opt")) == changed
    fsck = ["/usr/sbin/e2fsck", "-fn", f"{image}?offset={1 << 20}"]
    assert subprocess.run(fsck, capture_output=True).returncode == 0
    assert leftovers(tmp_path) == []
    assert not any((tmp_path / "cache/work").iterdir())


def qemu_of(image: Path) -> list[int]:
    """Processes whose command line names the image's overlay."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"qemu-system" in line and os.fsencode(image.parent) in line and b"guestfs" in line:
            found.append(int(entry.name))
    return found
