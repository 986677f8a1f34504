"""Other disks than the demo's: file systems, tables, LVM; other kernels; the other installer."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles import kernel_maker
from oracles.builds import ROOT, Build, Run
from oracles.lvm_tools import LvmTools

pytestmark = [pytest.mark.real, pytest.mark.slow]

# One set of packages for all layouts, so that they share the stored tree.
SPEC = """\
name: db01
os: {suite: bookworm}
install: {method: debootstrap, packages: [xfsprogs, btrfs-progs, lvm2]}
disk: {size: 3GiB, swap: 64MiB}
"""


@pytest.fixture(scope="module")
def layout(build: Callable[..., Build], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds SPEC with overrides."""
    spec = tmp_path_factory.mktemp("spec") / "db01.yaml"
    spec.write_text(SPEC)

    def run(*overrides: str) -> Build:
        return build(spec, *(word for o in overrides for word in ("--set", o)))

    return run


def partitions(image: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["/sbin/sfdisk", "--json", str(image)], capture_output=True, check=True)
    return list(json.loads(done.stdout)["partitiontable"]["partitions"])


def extract(image: Path, part: dict[str, Any], target: Path) -> Path:
    with image.open("rb") as source, target.open("xb") as out:
        source.seek(part["start"] * 512)
        left = part["size"] * 512
        while left:
            block = source.read(min(left, 1 << 20))
            if block.strip(b"\0"):
                out.write(block)
            else:
                out.seek(len(block), 1)
            left -= len(block)
        out.truncate(part["size"] * 512)
    return target


def check(*argv: str | Path) -> None:
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("filesystem", "checker"),
    [("xfs", ["/sbin/xfs_repair", "-n", "-f"]), ("btrfs", ["/usr/bin/btrfs", "check"])],
)
def test_other_root_file_systems_are_sound_and_leave_boot_to_ext4(
    layout: Any, tmp_path: Path, filesystem: str, checker: list[str]
) -> None:
    made = layout(f"disk.filesystem={filesystem}")
    parts = partitions(made.disk("raw"))
    root = extract(made.disk("raw"), parts[-1], tmp_path / "root")
    check(*checker, root)
    boot = f"{made.disk('raw')}?offset={parts[2]['start'] * 512}"
    check("/sbin/e2fsck", "-fn", boot)
    listing = subprocess.run(
        ["/sbin/debugfs", "-R", "cat /grub/grub.cfg", boot], capture_output=True, text=True
    ).stdout
    assert "\tlinux /vmlinuz-" in listing
    assert made.manifest["facts"]["pygrub"]["ok"] is True


@pytest.mark.parametrize(
    ("filesystem", "checker"),
    [
        ("ext4", ["/sbin/e2fsck", "-fn"]),
        ("xfs", ["/sbin/xfs_repair", "-n", "-f"]),
        ("btrfs", ["/usr/bin/btrfs", "check"]),
    ],
)
def test_volumes_lie_where_the_metadata_says_and_all_formats_hold_them(
    layout: Any, tmp_path: Path, filesystem: str, checker: list[str]
) -> None:
    formats = "disk.formats=[raw, qcow2, vhd]"
    made = layout("disk.lvm=true", f"disk.filesystem={filesystem}", formats)
    image = made.disk("raw")
    group = extract(image, partitions(image)[-1], tmp_path / "group")
    text = LvmTools(tmp_path / "lvm", group).metadata()
    pattern = r'(?s)\n(\w+) \{[^{}]*segment1 \{[^}]*extent_count = (\d+).*?"pv0", (\d+)'
    found = {name: (int(first), int(count)) for name, count, first in re.findall(pattern, text)}
    assert set(found) == {"swap", "root"}
    volumes = {}
    for name, (first, count) in found.items():
        # In sectors: a physical volume's first extent is at 1 MiB, and each has 4 MiB.
        where = {"start": 2048 + 8192 * first, "size": 8192 * count}
        volumes[name] = extract(group, where, tmp_path / name)
    check(*checker, volumes["root"])
    kind = subprocess.run(
        ["/sbin/blkid", "-p", "-o", "value", "-s", "TYPE", volumes["swap"]],
        capture_output=True,
        check=True,
    )
    assert kind.stdout == b"swap\n"
    for name, other in (("qcow2", "qcow2"), ("vhd", "vpc")):
        check("qemu-img", "compare", "-f", "raw", "-F", other, image, made.disk(name))


def test_a_tree_that_btrfs_would_enlarge_the_disk_for_is_refused(
    layout: Any, imagekit: Run, tmp_path: Path
) -> None:
    spec = tmp_path / "db01.yaml"
    spec.write_text(SPEC.replace("3GiB", "2GiB"))
    out = tmp_path / "out"
    done = imagekit("build", spec, "-o", out, "--set", "disk.filesystem=btrfs", check=False)
    assert done.returncode == 3
    assert "disk.size" in done.stderr
    assert not out.exists()


def test_an_mbr_disk_has_a_partition_for_each_mount(layout: Any) -> None:
    made = layout("disk.table=mbr", "disk.partitions=[{mount: /var, size: 600MiB}]")
    parts = partitions(made.disk("raw"))
    assert [p["type"] for p in parts] == ["82", "83", "83"]
    for part in parts[1:]:
        check("/sbin/e2fsck", "-fn", f"{made.disk('raw')}?offset={part['start'] * 512}")
    var = f"{made.disk('raw')}?offset={parts[1]['start'] * 512}"
    listing = subprocess.run(
        ["/sbin/debugfs", "-R", "ls -p /lib/dpkg", var], capture_output=True, text=True
    ).stdout
    assert "/status/" in listing


def own_kernel_spec(tmp_path: Path, kernel: Path, initrd: Path) -> Path:
    spec = tmp_path / "own.yaml"
    spec.write_text(
        "name: own01\n"
        "os: {suite: bookworm}\n"
        f"install: {{method: debootstrap, kernel: {kernel}, initrd: {initrd}}}\n"
        "disk: {size: 1GiB}\n"
        "boot: {modes: [pv, pvh]}\n"
    )
    return spec


def test_a_kernel_given_as_a_file_is_the_one_that_boots(
    demo: Build, build: Callable[..., Build], tmp_path: Path
) -> None:
    spec = own_kernel_spec(tmp_path, demo.one("kernel"), demo.one("initrd"))
    made = build(spec)
    assert made.one("kernel").read_bytes() == demo.one("kernel").read_bytes()
    assert made.one("initrd").read_bytes() == demo.one("initrd").read_bytes()
    assert not [p for p in made.manifest["packages"] if p["name"].startswith("linux-image")]


def test_a_mode_the_kernel_lacks_stops_the_build_before_an_image_is_written(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(
        kernel_maker.bzimage(
            kernel_maker.elf(kernel_maker.note(kernel_maker.PHYS32_ENTRY, bytes(8))),
            release=demo.manifest["kernel"]["release"],
        )
    )
    spec = own_kernel_spec(tmp_path, kernel, demo.one("initrd"))
    out = tmp_path / "out"
    done = imagekit("build", spec, "-o", out, "--json", check=False)
    assert done.returncode == 8, done.stderr
    assert "boot.modes" in done.stderr
    assert "ENTRY" in done.stderr
    assert '"stage": "image"' not in done.stdout
    assert not out.exists()


def test_debootstrap_builds_the_same_guest(build: Callable[..., Build], demo: Build) -> None:
    made = build(
        ROOT / "examples/web01.yaml",
        *("--set", "install.tool=debootstrap", "--set", "disk.formats=[raw]"),
    )
    names = {p["name"] for p in made.manifest["packages"]}
    assert {"openssh-server", "systemd-sysv", "initramfs-tools", "linux-image-amd64"} <= names
    assert made.manifest["kernel"]["release"] == demo.manifest["kernel"]["release"]
