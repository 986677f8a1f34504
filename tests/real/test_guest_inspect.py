"""What inspection says about real disks, against pygrub, sfdisk and blkid."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from oracles.guest_images import (
    Part,
    Tree,
    debian_tree,
    disk_of,
    host_kernel,
    initrd_with,
)
from oracles.lvm_images import BOOT_UUID as LVM_BOOT
from oracles.lvm_images import on_lvm
from typer import Typer
from typer.testing import CliRunner

from imagekit.cli.inspect import inspect as command
from imagekit.disk.vhd import write_vhd
from imagekit.guest.inspect import inspect
from imagekit.kernel.capability import examine
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace

pytestmark = pytest.mark.real

PYGRUB = "/usr/lib/xen-4.17/bin/pygrub"
BOOT_UUID = "0f7c2f0e-5a0f-4b57-9d39-6f5b5a0e0002"
ROOT_UUID = "0f7c2f0e-5a0f-4b57-9d39-6f5b5a0e0003"
ESP_UUID = "1234-ABCD"

GRUB_CFG = """\
set default="1"
menuentry 'Rescue' {{
        linux /vmlinuz-{release} single
}}
submenu 'more' {{
menuentry 'Debian  "quoted"' --class debian {{
        search --no-floppy --fs-uuid --set=root {boot}
        linux   /vmlinuz-{release} root=UUID={root} ro console=hvc0  quiet
        initrd  /initrd.img-{release}
}}
}}
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ESP, /boot and root on a GPT disk, with this host's kernel and a small initrd."""
    directory = tmp_path_factory.mktemp("inspected")
    release, kernel = host_kernel()
    root = debian_tree()
    for name in [name for name in root.files if name.startswith("boot/")]:
        del root.files[name]
    root.files["etc/fstab"] = (
        f"# comment\nUUID={ROOT_UUID} / ext4 defaults 0 1\nUUID={BOOT_UUID} /boot ext4 ro 0 2\n"
    ).encode()
    boot = Tree(directories=["grub"])
    boot.files = {
        "grub/grub.cfg": GRUB_CFG.format(release=release, boot=BOOT_UUID, root=ROOT_UUID).encode(),
        f"vmlinuz-{release}": kernel.read_bytes(),
        f"initrd.img-{release}": initrd_with(
            "block/xen-blkfront", "net/xen-netfront", release=release
        ),
        f"config-{release}": Path(f"/boot/config-{release}").read_bytes(),
        "vmlinuz-4.0-broken": b"not a kernel",
    }
    esp = Tree(files={"EFI/BOOT/BOOTX64.EFI": b"MZ"})
    parts = [
        Part("U", "vfat", esp, 8, ESP_UUID),
        Part("L", "ext4", boot, 32, BOOT_UUID),
        Part("L", "ext4", root, 32, ROOT_UUID),
    ]
    return disk_of(parts, directory / "guest.raw", directory)


@pytest.fixture(scope="module")
def found(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("work")
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    image = directory / "guest.vhd"
    write_vhd(disk, image)
    with workspace(Events(), directory / "work") as space:
        result = inspect(image, "vhd", workspace=space).to_json()
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    told: dict[str, Any] = json.loads(json.dumps(result))
    return told


def test_partitions_are_those_of_sfdisk_and_blkid(found: dict[str, Any], disk: Path) -> None:
    listed = subprocess.run(["/usr/sbin/sfdisk", "-J", disk], check=True, capture_output=True)
    table = json.loads(listed.stdout)["partitiontable"]
    assert found["partition_table"] == table["label"]
    assert [(p["start"] // 512, p["size"] // 512, p["type"]) for p in found["partitions"]] == [
        (p["start"], p["size"], p["type"]) for p in table["partitions"]
    ]
    for part in found["partitions"]:
        argv = ["/usr/sbin/blkid", "-p", "-O", str(part["start"]), "-S", str(part["size"])]
        told = subprocess.run([*argv, "-o", "export", disk], check=True, capture_output=True)
        fields = dict(line.split("=", 1) for line in told.stdout.decode().splitlines())
        assert (part["filesystem"], part["uuid"]) == (fields["TYPE"], fields["UUID"])


def test_the_default_entry_is_what_pygrub_boots(
    found: dict[str, Any], disk: Path, tmp_path: Path
) -> None:
    argv: list[str | Path] = [
        PYGRUB,
        "-q",
        "--output-format=simple",
        f"--output-directory={tmp_path}",
        disk,
    ]
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    fields = dict(line.split(" ", 1) for line in told.splitlines() if line)
    entry = found["default_entry"]
    assert entry["args"] == fields["args"]
    release, kernel = host_kernel()
    assert entry["kernel"] == f"/vmlinuz-{release}"
    assert entry["initrd"] == f"/initrd.img-{release}"
    assert Path(fields["kernel"]).read_bytes() == kernel.read_bytes()
    assert entry["config"] == "/grub/grub.cfg"
    listed = subprocess.run([PYGRUB, "-q", "-l", disk], capture_output=True, text=True).stdout
    titles = [line[7:] for line in listed.splitlines() if line.startswith("title: ")]
    assert [e["title"] for e in found["boot_entries"]][: len(titles)] == titles


def test_the_system_is_told_with_its_name_and_mounts(found: dict[str, Any]) -> None:
    assert found["os"]["distribution"] == "debian"
    assert found["os"]["version"] == "12"
    assert found["os"]["package_manager"] == "apt"
    assert found["hostname"] == "oldname"
    mounts = {f["device"]: f["mountpoint"] for f in found["filesystems"]}
    assert mounts == {"partition 1": None, "partition 2": "/boot", "partition 3": "/"}
    assert [(line["device"], line["mountpoint"]) for line in found["fstab"]] == [
        (f"UUID={ROOT_UUID}", "/"),
        (f"UUID={BOOT_UUID}", "/boot"),
    ]


def test_kernels_are_judged_as_on_the_host(found: dict[str, Any]) -> None:
    release, kernel = host_kernel()
    ours = {k["path"]: k for k in found["kernels"]}
    assert ours["/boot/vmlinuz-4.0-broken"]["problem"]
    judged = ours[f"/boot/vmlinuz-{release}"]
    direct = examine(kernel, config=Path(f"/boot/config-{release}")).to_json()
    for key in ("pv", "pvh", "hvm", "arch", "release", "compression"):
        assert judged[key] == direct[key], key
    assert judged["initrd"]["xen_blkfront"]["state"] == "module"


def test_every_boot_path_has_a_verdict_and_a_reason(found: dict[str, Any]) -> None:
    paths = found["boot_paths"]
    works = {
        (mode, path)
        for mode, verdicts in paths.items()
        for path, v in verdicts.items()
        if v["works"]
    }
    assert works == {
        ("pv", "pygrub"),
        ("pv", "pvgrub"),
        ("pv", "direct"),
        ("pvh", "pygrub"),
        ("pvh", "pvgrub"),
        ("pvh", "direct"),
        ("hvm", "direct"),
        ("hvm", "firmware_uefi"),
    }
    assert paths["hvm"]["firmware_bios"]["reason"] == "the first sector holds no boot code"
    assert all(v["reason"] for verdicts in paths.values() for v in verdicts.values())


def test_the_command_shows_a_bare_file_system_that_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "bare.raw"
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", image], check=True)
    app = Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(image), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["partition_table"] == "none"
    assert shown["filesystems"][0]["device"] == "the disk"
    assert shown["os"] is None and shown["default_entry"] is None
    assert "no operating system" in shown["warnings"][0]
    assert not any(
        v["works"] for verdicts in shown["boot_paths"].values() for v in verdicts.values()
    )


def test_a_root_on_lvm_is_found_without_libguestfs_own_inspection(tmp_path: Path) -> None:
    """That and its list of file systems took longer than all the rest."""
    tree = debian_tree()
    del tree.files["boot/grub/grub.cfg"]
    tree.files["etc/fstab"] = (
        f"/dev/mapper/VG--0-root / ext4 defaults 0 1\nUUID={LVM_BOOT} /boot ext4 ro 0 2\n"
        "/dev/VG-0/swap none swap sw 0 0\n"
    ).encode()
    image = tmp_path / "guest.raw"
    on_lvm(tree, Tree(files={"config": b"x"}), image, tmp_path, group="VG-0")
    with workspace(Events(), tmp_path / "work") as space:
        found = inspect(image, "raw", workspace=space)
    assert found.root is not None
    assert found.root.mounts == (("/", "/dev/VG-0/root"), ("/boot", "/dev/sda1"))
    assert not found.root.inspected
    assert found.os is not None
    assert (found.os.distribution, found.os.version, found.os.package_format) == (
        *("debian", "12", "deb"),
    )
    assert found.disk.volume_groups == ("VG-0",)
    devices = {f.device: (f.partition, f.type) for f in found.disk.filesystems}
    assert devices["/dev/VG-0/root"] == (None, "ext4")
    assert devices["/dev/sda2"] == (2, "LVM2_member")
    assert "/dev/VG-0/swap" in devices
