"""Images that are changed without an appliance, and those that are not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.guest_images import START, Tree, debian_tree, debugfs, partitioned
from oracles.lvm_images import BOOT_UUID, GROUP_AT, on_lvm

from imagekit.disk.qcow2 import write_qcow2
from imagekit.disk.vhd import read_vhd, write_vhd
from imagekit.errors import GuestError
from imagekit.guest import inject as injecting
from imagekit.guest import quick
from imagekit.guest.changes import Change, Copy, Hostname, Mkdir, RunScript, Write
from imagekit.guest.files import NeedsAppliance
from imagekit.guest.inject import inject
from imagekit.guest.working import working_copy
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace

MIB = 1 << 20


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))

    def never(*_arguments: object, **_more: object) -> None:
        raise AssertionError("an appliance was asked for")

    monkeypatch.setattr(injecting, "_in_appliance", never)
    with workspace(Events()) as opened:
        yield opened


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guest")
    return partitioned(debian_tree(), directory / "base.raw", directory)


def copy_of(image: Path, directory: Path) -> Path:
    target = directory / "guest.raw"
    subprocess.run(["cp", "--sparse=always", image, target], check=True)
    return target


def judged(image: Path) -> None:
    argv = ["e2fsck", "-fn", f"{image}?offset={START}"]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    done = subprocess.run(argv, capture_output=True, env=env)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize(
    ("kind", "others_may"), [("raw", 0), ("qcow2", 0), ("vhd", 0), ("raw", 0o22), ("qcow2", 0o22)]
)
def test_every_format_is_changed(
    kind: str, others_may: int, base: Path, tmp_path: Path, space: Workspace
) -> None:
    image, after = copy_of(base, tmp_path), tmp_path / "after.raw"
    if kind == "qcow2":
        write_qcow2(base, image := tmp_path / "guest.qcow2")
    elif kind == "vhd":
        write_vhd(base, image := tmp_path / "guest.vhd")
    image.chmod(0o644 | others_may)
    (tmp_path / "data").write_bytes(os.urandom(5 * MIB))
    wanted: list[Change] = [
        Write("/etc/motd", b"new motd\n"),
        Copy(tmp_path / "data", "/opt/a b/data", 0o640, "web"),
        Mkdir("/srv/site", 0o2775, "web:www-data"),
        Hostname("web01.example.org"),
    ]
    done = inject(image, kind, wanted, workspace=space)
    assert (done.root, done.by_appliance, len(done.changes)) == ("partition 1", False, 4)
    if kind == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
        argv: list[str | Path] = ["qemu-img", "convert", "-f", kind, "-O", "raw", image, after]
        subprocess.run(argv, check=True)
    elif kind == "vhd":
        read_vhd(image, after)
    else:
        after = image
    judged(after)
    assert debugfs(after, "cat /etc/motd") == "new motd\n"
    assert debugfs(after, "cat /etc/hostname") == "web01\n"
    debugfs(after, f'dump "/opt/a b/data" {tmp_path}/out')
    assert (tmp_path / "out").read_bytes() == (tmp_path / "data").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_change_that_fails_leaves_the_image_as_it_was(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    before = image.read_bytes(), image.stat().st_mtime_ns
    for bad in (Write("/etc/motd/file", b""), Write("/large", bytes(200 * MIB))):
        with pytest.raises(GuestError):
            inject(image, "raw", [Write("/etc/motd", b"lost\n"), bad], workspace=space)
        assert (image.read_bytes(), image.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def refused(image: Path, space: Workspace, partition: int | None = None) -> str:
    with (
        pytest.raises(NeedsAppliance) as caught,
        working_copy(image, "raw", workspace=space) as copy,
        quick.quick_root(copy, partition, workspace=space),
    ):
        pass
    return str(caught.value)


def write_at(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def test_what_may_hold_another_root_is_left_to_the_appliance(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    assert "0 roots" in refused(image, space, partition=7)
    write_at(image, START + 512, b"LABELONE")
    assert "checksum of its label" in refused(image, space)
    image = copy_of(base, tmp_path)
    write_at(image, START + 1080, b"??")
    assert "partition 1 may hold" in refused(image, space)
    image = copy_of(base, tmp_path)
    write_at(image, 512 + 16, b"\1\2\3\4")
    assert "partition table" in refused(image, space)


def test_a_script_is_left_to_the_appliance(base: Path, tmp_path: Path, space: Workspace) -> None:
    with pytest.raises(AssertionError, match="appliance was asked for"):
        inject(copy_of(base, tmp_path), "raw", [RunScript("s", b"")], workspace=space)


def test_a_file_system_that_was_damaged_before_is_left_to_the_appliance(
    base: Path, tmp_path: Path, space: Workspace
) -> None:
    image = copy_of(base, tmp_path)
    argv = ["debugfs", "-w", "-R", "set_inode_field /etc/group links_count 3"]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    subprocess.run([*argv, f"{image}?offset={START}"], check=True, capture_output=True, env=env)
    before = image.read_bytes()
    with working_copy(image, "raw", workspace=space) as copy:  # noqa: SIM117
        with quick.quick_root(copy, None, workspace=space) as root:
            root.files.write("/etc/motd", b"new\n")
            with pytest.raises(NeedsAppliance, match="e2fsck is not content"):
                root.finish()
    assert image.read_bytes() == before


def test_what_fstab_mounts_is_left_to_the_appliance(tmp_path: Path, space: Workspace) -> None:
    tree = debian_tree()
    tree.files["etc/fstab"] += b"UUID=1234-5678 /boot/efi vfat umask=0077 0 1\ntmpfs /x tmpfs\n"
    tree.directories += ["boot/efi", "x"]
    image = partitioned(tree, tmp_path / "guest.raw", tmp_path)
    with working_copy(image, "raw", workspace=space) as copy:  # noqa: SIM117
        with quick.quick_root(copy, None, workspace=space) as root:
            assert root.files.elsewhere == ("/boot/efi",)
            root.files.write("/x/file", b"")
            with pytest.raises(NeedsAppliance, match="/boot/efi is another"):
                root.files.write("/boot/efi/file", b"")


def lvm_guest(image: Path, scratch: Path, group: str = "vg-0") -> int:
    """A guest with /boot on a partition and the root on a logical volume; where that begins."""
    tree = debian_tree()
    lines = f"/dev/mapper/vg--0-root / ext4 defaults 0 1\nUUID={BOOT_UUID} /boot ext4 ro 0 2\n"
    tree.files["etc/fstab"] = f"{lines}/dev/vg-0/swap none swap sw 0 0\n".encode()
    del tree.files["boot/grub/grub.cfg"]
    return on_lvm(tree, Tree(files={"config": b"x"}), image, scratch, group=group)


def test_a_root_on_a_logical_volume_is_changed(tmp_path: Path, space: Workspace) -> None:
    image = tmp_path / "guest.raw"
    start = lvm_guest(image, tmp_path)
    done = inject(image, "raw", [Write("/etc/motd", b"new motd\n")], workspace=space)
    assert (done.root, done.by_appliance) == ("vg-0/root", False)
    place = f"{image}?offset={start}"
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    assert subprocess.run(["e2fsck", "-fn", place], capture_output=True, env=env).returncode == 0
    shown = subprocess.run(["debugfs", "-R", "cat /etc/motd", place], capture_output=True, env=env)
    assert shown.stdout == b"new motd\n"
    with pytest.raises(AssertionError, match="appliance was asked for"):
        inject(image, "raw", [Write("/boot/grub/x", b"")], workspace=space)


def test_a_damaged_group_is_left_to_the_appliance(tmp_path: Path, space: Workspace) -> None:
    image = tmp_path / "guest.raw"
    lvm_guest(image, tmp_path)
    write_at(image, GROUP_AT + 4096 + 600, b"x")
    assert "checksum of its metadata" in refused(image, space)
