"""File systems of one tree, one identifier and one time are the same, byte for byte."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imagekit.disk.filesystem import MIB, Region, make

EPOCH = 1_700_000_000
UUID = "11111111-2222-4333-8444-555555555555"
SIZE = 400 * MIB


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/many").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc/hostname").write_text("g\n")
    (root / "usr/bin/tool").write_bytes(bytes(range(256)) * 4096)
    (root / "usr/bin/tool").chmod(0o4755)
    (root / "bin").symlink_to("usr/bin")
    for index in range(300):
        (root / f"etc/many/file{index}").write_text("x" * index)
    return root


def made(filesystem: str, tree: Path, place: Path, epoch: int | None = EPOCH) -> Path:
    image = place / f"{filesystem}.raw"
    with image.open("xb") as stream:
        stream.truncate(MIB + SIZE)
    make(filesystem, tree, Region(image, MIB, SIZE), uuid=UUID, label="root", epoch=epoch)
    return image


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_a_copy_of_the_tree_gives_the_same_bytes(
    filesystem: str, tree: Path, tmp_path: Path
) -> None:
    """The copy's inodes, its times of change and the order of its directories are others."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    subprocess.run(
        ["find", tree, "-exec", "touch", "-h", "-d", f"@{EPOCH - 9}", "{}", "+"], check=True
    )
    shutil.copytree(tree, other / "tree", symlinks=True)
    one, two = made(filesystem, tree, tmp_path), made(filesystem, other / "tree", other)
    subprocess.run(["cmp", one, two], check=True)


def test_the_times_of_an_xfs_are_those_of_the_build(tree: Path, tmp_path: Path) -> None:
    image = made("xfs", tree, tmp_path)
    disk = whole(image)
    argv = ["xfs_db", "-r", "-c", "path /usr/bin/tool", "-c", "print", str(disk)]
    env = {**os.environ, "TZ": "UTC"}
    text = subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout
    times = re.findall(r"(?m)^\S*\.(?:mtime|ctime|crtime)\.sec = .*$", text)
    assert len(times) == 3
    assert all("Nov 14 22:13:20 2023" in line for line in times), times
    subprocess.run(["xfs_repair", "-n", "-f", disk], check=True, capture_output=True)


def whole(image: Path) -> Path:
    """The file system alone, as its own tools want it."""
    target = image.with_suffix(".whole")
    argv = ["dd", f"if={image}", f"of={target}", "bs=1M", "skip=1", "conv=sparse", "status=none"]
    subprocess.run(argv, check=True)
    return target


def test_a_btrfs_differs_because_its_files_have_the_numbers_of_the_tree(
    tree: Path, tmp_path: Path
) -> None:
    """mkfs.btrfs 6.2 takes inode numbers and times of change from the host, and sorts by them."""
    disk = whole(made("btrfs", tree, tmp_path))
    argv = ["btrfs", "inspect-internal", "dump-tree", "-t", "fs", str(disk)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    status = (tree / "usr/bin/tool").stat()
    if f"key ({status.st_ino + 256} INODE_ITEM 0)" not in text:  # after btrfs's own numbers
        pytest.skip("missing: a mkfs.btrfs that numbers files as their tree does")
    assert f"ctime {status.st_ctime_ns // 10**9}." in text
