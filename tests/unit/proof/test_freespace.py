"""Full file systems are seen in images of every format, with a table and without."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.disk.qcow2 import write_qcow2
from imagekit.disk.vhd import write_vhd
from imagekit.proof.freespace import full_file_system, full_file_systems, partitions

MIB = 1 << 20


def file_system(path: Path, *, full: bool, kind: str = "ext4") -> Path:
    """A file system of 8 MiB made by mke2fs(8); debugfs(8) gives all its blocks away."""
    with path.open("wb") as stream:
        stream.truncate(8 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", kind, path], check=True)
    if full:
        filler = path.with_suffix(".filler")
        filler.write_bytes(b"x" * 9 * MIB)
        argv: list[str | Path] = ["debugfs", "-w", "-R", f"write {filler} filler", path]
        subprocess.run(argv, capture_output=True, check=True)
    return path


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_a_full_file_system_on_the_whole_disk(tmp_path: Path, kind: str) -> None:
    (found,) = full_file_systems(file_system(tmp_path / "a", full=True, kind=kind), "raw")
    assert re.fullmatch(r"ext4 on the disk of the image: \d+ of \d{4} blocks free", found)
    assert full_file_systems(file_system(tmp_path / "b", full=False, kind=kind), "raw") == ()


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_a_partition_in_each_format(tmp_path: Path, label: str) -> None:
    part = file_system(tmp_path / "part", full=True)
    image = tmp_path / "disk"
    image.write_bytes(bytes(2 * MIB) + part.read_bytes() + bytes(2 * MIB))
    table = f"label: {label}\nstart=2048, size=2048\nstart=4096, size=16384\n"
    subprocess.run(["sfdisk", "-q", image], input=table.encode(), check=True)
    write_qcow2(image, tmp_path / "disk.qcow2")
    write_vhd(image, tmp_path / "disk.vhd")
    for path, image_format in (("disk", "raw"), ("disk.qcow2", "qcow2"), ("disk.vhd", "vhd")):
        (found,) = full_file_systems(tmp_path / path, image_format)
        assert found.startswith("ext4 on partition 2 of the image")


def test_an_image_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert full_file_systems(tmp_path / "nothing", "raw") == ()
    (tmp_path / "short").write_bytes(b"x" * 700)
    assert full_file_systems(tmp_path / "short", "raw") == ()


def test_inodes_run_out_too() -> None:
    block = bytearray(66 << 10)
    struct.pack_into("<5I", block, 1024, 128, 4096, 200, 3000, 0)
    block[1024 + 56 : 1024 + 58] = b"\x53\xef"
    assert str(full_file_system(bytes(block), 1)) == (
        "ext4 on partition 1 of the image: 0 of 128 inodes free"
    )


def test_xfs_and_btrfs() -> None:
    xfs = bytearray(66 << 10)
    xfs[:4] = b"XFSB"
    struct.pack_into(">Q", xfs, 8, 65536)
    struct.pack_into(">I", xfs, 88, 4)
    struct.pack_into(">Q", xfs, 144, 12)
    assert "XFS on partition 3 of the image: 12 of 65536 blocks" in str(
        full_file_system(bytes(xfs), 3)
    )
    struct.pack_into(">Q", xfs, 144, 30000)
    assert full_file_system(bytes(xfs), 3) is None
    btrfs = bytearray(66 << 10)
    btrfs[65536 + 64 : 65536 + 72] = b"_BHRfS_M"
    struct.pack_into("<QQ", btrfs, 65536 + 112, 1 << 30, (1 << 30) - 4096)
    assert "Btrfs on the disk of the image: 4096 of" in str(full_file_system(bytes(btrfs), 0))
    struct.pack_into("<QQ", btrfs, 65536 + 112, 1 << 30, 1 << 29)
    assert full_file_system(bytes(btrfs), 0) is None


@given(st.binary(max_size=2048), st.sampled_from([b"", b"\x53\xef", b"XFSB"]))
def test_any_bytes_whatever_are_no_error(data: bytes, magic: bytes) -> None:
    list(partitions(data))
    list(partitions(bytes(512) + b"EFI PART" + data))
    padded = bytearray(data.ljust(66 << 10, b"\xff"))
    place = 0 if magic == b"XFSB" else 1024 + 56
    padded[place : place + len(magic)] = magic
    full_file_system(bytes(padded), 1)
    full_file_system(data, 1)
