"""Partition tables that grow with their disk, as sfdisk reads them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import GuestError
from imagekit.provision.growth import HEAD_BYTES, grown_table

MIB = 1 << 20


def disk_with(path: Path, script: str, size: int) -> bytes:
    with path.open("xb") as stream:
        stream.truncate(size)
    subprocess.run(["/sbin/sfdisk", "-q", path], input=script, text=True, check=True)
    return path.read_bytes()[:HEAD_BYTES]


def _head() -> bytes:
    with tempfile.TemporaryDirectory() as text:
        script = "label: gpt\nstart=1MiB, size=2MiB\nstart=4MiB, size=20MiB\n"
        return disk_with(Path(text) / "disk", script, 32 * MIB)


HEAD = _head()


def grow(path: Path, head: bytes, old: int, new: int) -> int:
    grown = grown_table(head, old, new)
    with path.open("r+b") as stream:
        stream.truncate(new)
        for offset, data in grown.writes:
            stream.seek(offset)
            stream.write(data)
    return grown.partition


def table(path: Path) -> dict[str, object]:
    done = subprocess.run(["/sbin/sfdisk", "-J", path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["partitiontable"]
    found.pop("device")
    for number, part in enumerate(found["partitions"]):
        part["node"] = number
    return dict(found)


@settings(max_examples=10, deadline=None)
@given(
    label=st.sampled_from(["gpt", "dos"]),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    more=st.integers(1, 5000),
    swapped=st.booleans(),
)
def test_only_the_last_partition_changes_and_it_reaches_the_end(
    label: str, sizes: list[int], more: int, swapped: bool
) -> None:
    with tempfile.TemporaryDirectory() as text:
        path = Path(text) / "disk"
        starts = [1 + sum(sizes[:i]) for i in range(len(sizes))]
        lines = [f"start={a}MiB, size={n}MiB" for a, n in zip(starts, sizes, strict=True)]
        # Numbers need not follow places.
        script = "\n".join([f"label: {label}", *(reversed(lines) if swapped else lines)]) + "\n"
        old, new = 26 * MIB, (26 + more) * MIB
        head = disk_with(path, script, old)
        before = table(path)
        number = grow(path, head, old, new)
        after = table(path)
        assert number == (1 if swapped else len(sizes))
        parts = after["partitions"]
        assert isinstance(parts, list)
        end = parts[number - 1]["start"] + parts[number - 1]["size"]
        assert end == new // 512 - (2048 if label == "gpt" else 0)
        old_parts = before["partitions"]
        assert isinstance(old_parts, list)
        parts[number - 1]["size"] = old_parts[number - 1]["size"]
        assert parts == old_parts
        assert after.get("id") == before.get("id")
        check = subprocess.run(["/sbin/sfdisk", "-V", path], capture_output=True, text=True)
        assert "No errors detected" in check.stdout, check.stdout + check.stderr
        if label == "gpt":
            # The backup alone must say the same, so that both copies are right.
            with path.open("r+b") as stream:
                stream.seek(512)
                stream.write(bytes(512))
            assert table(path)["partitions"] == [
                {**p, "size": end - p["start"]} if p["node"] == number - 1 else p for p in parts
            ]


def test_a_disk_without_a_table_has_nothing_to_change(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8 * MIB))
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", path], check=True)
    assert grown_table(path.read_bytes()[:HEAD_BYTES], 8 * MIB, 16 * MIB).partition == 0
    assert grown_table(b"", 8 * MIB, 16 * MIB).writes == ()


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(440, 3 * 512 + 128), value=st.integers(0, 255), data=st.data())
def test_a_damaged_table_ends_in_an_error_or_stays_within_the_disk(
    offset: int, value: int, data: st.DataObject
) -> None:
    head = bytearray(HEAD)
    head[offset] = value
    if data.draw(st.booleans()):
        head = head[: data.draw(st.integers(0, 40 * 512))]
    try:
        grown = grown_table(bytes(head), 32 * MIB, 64 * MIB)
    except GuestError:
        return
    assert all(at >= 0 and at + len(piece) <= 64 * MIB for at, piece in grown.writes)


@pytest.mark.parametrize("place", [512 + 20, 512 + 60, 1024 + 40])
def test_a_gpt_whose_checksum_does_not_fit_is_refused(place: int) -> None:
    head = bytearray(HEAD)
    head[place] ^= 0xFF
    with pytest.raises(GuestError, match="damaged"):
        grown_table(bytes(head), 32 * MIB, 64 * MIB)


def test_an_extended_partition_at_the_end_does_not_grow(tmp_path: Path) -> None:
    script = "label: dos\nstart=1MiB, size=2MiB\nstart=4MiB, size=4MiB, type=5\n"
    head = disk_with(tmp_path / "disk", script, 16 * MIB)
    with pytest.raises(GuestError, match="extended"):
        grown_table(head, 16 * MIB, 32 * MIB)
