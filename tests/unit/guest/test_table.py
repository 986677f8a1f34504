"""Partition tables written by sfdisk, and hostile ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.guest.table import SECTOR, UnreadableTable, read_table

ENV = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def reader(path: Path) -> Callable[[int, int], bytes]:
    def read(first: int, count: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(first * SECTOR)
            return stream.read(count * SECTOR)

    return read


def made(path: Path, script: str) -> dict[str, Any]:
    with path.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["sfdisk", "-q", path], input=script.encode(), check=True, env=ENV)
    told = subprocess.run(["sfdisk", "-J", path], check=True, env=ENV, capture_output=True)
    table: dict[str, Any] = json.loads(told.stdout)["partitiontable"]
    return table


@pytest.mark.parametrize(
    "script",
    [
        "label: gpt\nsize=1M, type=21686148-6449-6E6F-744E-656564454649\n"
        'size=8M, type=U, name="EFI part"\n,,L\n',
        "label: gpt\n4: start=8192, size=2048, type=L\n2: start=4096, size=2048, type=S\n",
        "label: dos\n,8M,83,*\n,8M,82\n",
        "label: dos\n,4M,83\n,,5\n,4M,83\n,4M,8e\n,,83\n",
    ],
)
def test_a_table_is_read_as_sfdisk_wrote_it(tmp_path: Path, script: str) -> None:
    image = tmp_path / "disk"
    told = made(image, script)
    kind, entries = read_table(reader(image))
    assert kind == {"gpt": "gpt", "dos": "mbr"}[told["label"]]
    expected = {
        int(part["node"].removeprefix(str(image))): (part["start"], part["size"])
        for part in told["partitions"]
    }
    assert {e.number: (e.start // SECTOR, e.size // SECTOR) for e in entries} == expected
    for entry, part in zip(
        sorted(entries, key=lambda e: e.number),
        sorted(told["partitions"], key=lambda p: int(p["node"].removeprefix(str(image)))),
        strict=True,
    ):
        assert (entry.name or "") == part.get("name", "")
        assert entry.bootable == part.get("bootable", False)
        if kind == "gpt":
            assert (entry.type, entry.part_uuid) == (part["type"], part["uuid"].lower())
        else:
            assert int(entry.type, 16) == int(part["type"], 16)


def test_a_bare_file_system_has_no_table(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    for kind in ("ext4", "vfat"):
        with image.open("wb") as stream:
            stream.truncate(16 << 20)
        argv = {"ext4": ["mke2fs", "-q", "-F", "-t", "ext4"], "vfat": ["mkfs.vfat"]}[kind]
        subprocess.run([*argv, image], check=True, env=ENV, capture_output=True)
        assert read_table(reader(image)) == ("none", [])


def test_a_changed_gpt_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    made(image, "label: gpt\n,,L\n")
    data = bytearray(image.read_bytes())
    data[2 * SECTOR + 40] ^= 1
    image.write_bytes(data)
    with pytest.raises(UnreadableTable):
        read_table(reader(image))


@settings(max_examples=200)
@given(
    st.binary(min_size=66, max_size=66),
    st.binary(max_size=4 * SECTOR),
    st.sampled_from([b"\xee", b"\x05", b"\x0f", b"\x83"]),
)
def test_any_disk_is_read_without_a_crash_or_a_loop(
    records: bytes, rest: bytes, kind: bytes
) -> None:
    first = bytearray(446) + records[:64] + b"\x55\xaa"
    for index in range(4):
        first[446 + 16 * index] &= 0x80
    first[450] = kind[0]
    disk = bytes(first) + rest

    def read(start: int, count: int) -> bytes:
        return disk[start % 5 * SECTOR :][: count * SECTOR]

    try:
        _, entries = read_table(read)
    except UnreadableTable:
        return
    assert len(entries) <= 128
