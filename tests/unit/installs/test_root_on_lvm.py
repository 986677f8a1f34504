"""Root and swap on logical volumes: where they lie, and what is in them."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.lvm_tools import LvmTools

from imagekit.disk.layout import Ids, Part, plan_layout
from imagekit.errors import SpecError
from imagekit.installs.stages.image import Image, _set_aside
from imagekit.installs.stages.lvm import RootOnLvm, assemble_lvm, plan_lvm
from imagekit.pipeline.source import code_modules
from imagekit.spec.model import Disk

MIB = 1 << 20
EPOCH = 1700000000


def planned(disk: Disk, seed: str | None = "seed", epoch: int | None = EPOCH) -> RootOnLvm:
    ids = Ids(seed)
    return plan_lvm(disk, plan_layout(disk, ids).parts[-1], ids, epoch=epoch)


def disk_of(**values: object) -> Disk:
    return Disk.model_validate({"lvm": True, "size": "1GiB", **values})


@given(
    st.integers(700, 1 << 20),
    st.integers(0, 64),
    st.sampled_from(["gpt", "mbr"]),
)
def test_the_root_takes_all_extents_that_swap_leaves(size: int, swap: int, table: str) -> None:
    disk = disk_of(size=f"{size}MiB", swap=f"{swap}MiB", table=table)
    layout = plan_layout(disk, Ids("seed"))
    made = planned(disk)
    part = layout.parts[-1]
    assert made.part == part
    extents = {volume.name: volume.extents for volume in made.group.volumes}
    assert sum(extents.values()) == (part.size - MIB) // (4 * MIB)
    if swap:
        assert 4 * extents["swap"] - 3 <= swap <= 4 * extents["swap"]
    else:
        assert list(extents) == ["root"]
    regions = [made.region(name, Path("disk")) for name in extents]
    for one, other in itertools.pairwise(regions):
        assert one.start + one.size == other.start
    assert regions[0].start == part.start + MIB
    assert regions[-1].start + regions[-1].size <= part.start + part.size


def test_identifiers_follow_from_the_seed_and_leave_those_of_the_partitions_alone() -> None:
    disk = disk_of(swap="64MiB")
    assert planned(disk) == planned(disk)
    group, other = planned(disk).group, planned(disk, "other").group
    found = [x for g in (group, other) for x in (g.uuid, g.physical_uuid)]
    found += [v.uuid for g in (group, other) for v in g.volumes]
    assert len(set(found)) == 8
    assert planned(disk).part == plan_layout(disk, Ids("seed")).parts[-1]


def test_without_an_epoch_the_group_is_made_now_and_is_another_each_time() -> None:
    one, other = (planned(disk_of(), None, None).group for _ in range(2))
    assert one.created > EPOCH
    assert one.uuid != other.uuid


def test_a_partition_without_room_for_a_root_is_refused() -> None:
    with pytest.raises(SpecError, match="no room for the root volume"):
        planned(disk_of(size="600MiB", swap="16MiB"))


@pytest.mark.parametrize("name", ["v" * 121, "v-" * 40 + "v"])
def test_a_name_too_long_for_device_mapper_is_refused_in_the_spec(name: str) -> None:
    Disk.model_validate({"volume_group": name[:-1]})
    with pytest.raises(ValueError, match="120 characters"):
        Disk.model_validate({"volume_group": name})


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A tree of root's with a file that spans many blocks."""
    if os.geteuid() != 0:
        pytest.skip("missing: root, whose files the tree holds")
    path = tmp_path / "tree"
    (path / "etc").mkdir(parents=True)
    (path / "etc/hostname").write_text("db01\n")
    (path / "big").write_bytes(bytes(range(256)) * 4096)
    yield path
    (path / "big").unlink()


def assembled(made: RootOnLvm, tree: Path, image: Path) -> Path:
    with image.open("xb") as stream:
        stream.truncate(made.part.start + made.part.size + MIB)
    assemble_lvm(made, tree, image, epoch=EPOCH, log=image.with_suffix(".log"))
    return image


def checked(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_volumes_hold_a_sound_root_and_swap_and_a_second_image_is_the_same(
    tree: Path, tmp_path: Path
) -> None:
    made = planned(disk_of(swap="30MiB"))
    image = assembled(made, tree, tmp_path / "one.raw")
    root, swap = (made.region(name, image) for name in ("root", "swap"))
    checked("/sbin/e2fsck", "-fn", f"{image}?offset={root.start}")
    target = f"{image}?offset={root.start}"
    assert checked("/sbin/debugfs", "-R", "cat /etc/hostname", target) == "db01\n"
    found = dict(
        x.split(":", 1) for x in checked("/sbin/dumpe2fs", "-h", target).splitlines() if ":" in x
    )
    assert found["Filesystem UUID"].strip() == made.part.fs_uuid
    assert int(found["Block count"]) * int(found["Block size"]) == root.size
    area = ("-O", str(swap.start), "-S", str(swap.size))
    said = checked("/sbin/blkid", "-p", "-o", "export", *area, image)
    assert f"UUID={made.swap_uuid}\n" in said
    assert "TYPE=swap\n" in said
    with image.open("rb") as stream:
        stream.seek(swap.start + 1024)
        version, last_page = struct.unpack("<II", stream.read(8))  # mm/swapfile.c, swap_header
    assert (version, (last_page + 1) * 4096) == (1, swap.size)
    second = assembled(made, tree, tmp_path / "two.raw")
    assert image.read_bytes() == second.read_bytes()
    assert image.stat().st_blocks * 512 < 64 * MIB


def test_pvck_reads_the_partition(tree: Path, tmp_path: Path) -> None:
    made = planned(disk_of(swap="30MiB", volume_group="db-01.data+x"))
    image = assembled(made, tree, tmp_path / "disk.raw")
    part = tmp_path / "part.raw"
    with image.open("rb") as source, part.open("xb") as out:
        source.seek(made.part.start)
        out.write(source.read(2 * MIB))
        out.truncate(made.part.size)
    lvm = LvmTools(tmp_path / "lvm", part)
    assert lvm.headers()["pv_header.device_size"] == str(made.part.size)
    assert lvm.metadata() == made.group.text()
    assert "db-01.data+x {\n" in lvm.metadata()


def test_a_tree_too_large_for_its_volume_is_refused(tree: Path, tmp_path: Path) -> None:
    with (tree / "big").open("ab") as stream:
        stream.write(os.urandom(1 << 20) * 90)
    with pytest.raises(SpecError, match="does not fit"):
        assembled(planned(disk_of(size="620MiB")), tree, tmp_path / "disk.raw")


@pytest.mark.parametrize("epoch", [EPOCH, 1 << 32])
def test_mount_points_have_the_time_of_the_build_not_of_the_clock(
    tree: Path, tmp_path: Path, epoch: int
) -> None:
    for mount in ("/boot", "/srv/data"):
        (tree / mount[1:]).mkdir(parents=True)
        (tree / mount[1:] / "inner").write_text("x")
        part = Part(3, "data", MIB, MIB, "", "", "ext4", mount)
        aside = _set_aside(tree, part, tmp_path / f"aside-{Path(mount).name}", epoch)
        assert (aside / "inner").read_text() == "x"
        assert list((tree / mount[1:]).iterdir()) == []
    for place in ("boot", "srv", "srv/data"):
        assert (tree / place).stat().st_mtime == epoch


def test_no_image_of_a_tree_needs_the_appliance() -> None:
    assert "imagekit.installs.stages.lvm" in code_modules(Image)
    assert "imagekit.guest.appliance" not in code_modules(Image)
