"""diskimage-builder's block-device configurations: which are taken, and what they come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.disk.layout import Ids
from imagekit.errors import SpecError
from imagekit.installs import diskimage_builder
from imagekit.installs.context import BuildContext
from imagekit.installs.elements.blockdevice import BlockDevice, read_block_device
from imagekit.installs.elements.catalogue import library_path
from imagekit.installs.stages.blockdevice import BlockDeviceImage
from imagekit.spec.load import SpecFile, load_spec

WHOLE_DISK = """
- local_loop: {name: image0}
- mkfs: {base: image0, name: mkfs_root, mount: {mount_point: /, fstab: {options: defaults}}}
"""


def spec_of(directory: Path, text: str | bytes, *overrides: str) -> SpecFile:
    (directory / "keys.gpg").write_bytes(b"key")
    data = text if isinstance(text, bytes) else text.encode()
    (directory / "disk.yaml").write_bytes(data)
    path = directory / "g.yaml"
    path.write_text(
        "name: g\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        "install: {method: diskimage-builder, elements: [growroot], block_device: disk.yaml}\n"
        "boot: {modes: [pv, pvh]}\n"
    )
    return load_spec(path, overrides)


def read(directory: Path, text: str | bytes, *overrides: str) -> BlockDevice:
    return read_block_device(spec_of(directory, text, *overrides), "disk.yaml")


def test_a_disk_without_partitions_gets_what_disk_image_create_adds(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE_DISK)
    (made,) = found.kind("mkfs")
    assert (made["type"], made["label"]) == ("ext4", "root")
    assert (found.table, found.size) == ("none", 2 << 30)
    layout = found.identified(Ids("seed")).layout()
    (part,) = layout.parts
    assert (part.role, part.filesystem, part.mount) == ("root", "ext4", "/")
    assert layout.boot_part.fs_uuid == Ids("seed").uuid()


@pytest.mark.parametrize("name", ["block-device-gpt", "block-device-mbr"])
def test_configurations_of_diskimage_builder_itself_are_taken(tmp_path: Path, name: str) -> None:
    path = library_path("elements") / name / "block-device-default.yaml"
    found = read(tmp_path, path.read_bytes())
    assert found.table == name.rpartition("-")[2]
    assert found.layout().boot_part.mount == "/"


def test_a_separate_boot_and_swap_have_their_roles(tmp_path: Path) -> None:
    text = """
- local_loop: {name: image0, size: 2GiB}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: boot, flags: [boot, primary], size: 200MiB,
         mkfs: {type: ext4, mount: {mount_point: /boot}}}
      - {name: swap, size: 100MiB, mkfs: {type: swap, label: swap}}
      - {name: srv, size: 100MiB, mkfs: {type: xfs, mount: {mount_point: /srv}}}
      - {name: root, size: 100%, mkfs: {type: ext4, mount: {mount_point: /}}}
"""
    layout = read(tmp_path, text).identified(Ids("x")).layout()
    roles = {p.role: (p.mount, p.filesystem) for p in layout.parts}
    assert roles == {
        "boot": ("/boot", "ext4"),
        "swap": ("", "swap"),
        "data": ("/srv", "xfs"),
        "root": ("/", "ext4"),
    }
    assert len({p.fs_uuid for p in layout.parts}) == 4
    assert layout.boot_part.mount == "/boot"


def test_a_uuid_of_the_configuration_is_kept(tmp_path: Path) -> None:
    wanted = "01234567-89ab-4def-8123-456789abcdef"
    text = WHOLE_DISK.replace("name: mkfs_root,", f"name: mkfs_root, uuid: {wanted},")
    assert read(tmp_path, text).identified(Ids(None)).layout().boot_part.fs_uuid == wanted


LVM = """
- local_loop: {name: image0}
- lvm:
    name: lvm
    base: [image0]
    pvs: [{name: pv, options: [], base: image0, device: image0}]
    vgs: [{name: vg, base: [pv]}]
    lvs: [{name: lv, base: vg, extents: 100%VG}]
- mkfs: {base: lv, name: mkfs_root, mount: {mount_point: /}}
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LVM, "lvm needs device-mapper"),
        ("{}", "is a list"),
        ("- 1", "refuses the configuration"),
        ("- nonsense: {name: x}", "not a plugin"),
        ("- local_loop: {name: disk1}\n", "image0"),
        (WHOLE_DISK + "- local_loop: {name: image1}\n", "image0"),
        ("- local_loop: {name: image0}\n", "nothing is mounted on /"),
        (WHOLE_DISK.replace("image0}", "image0, size: 3GiB}", 1), "local_loop has 3221225472"),
        (WHOLE_DISK.replace("image0}", "image0, size: 3 apples}", 1), "refuses"),
        (WHOLE_DISK.replace("image0}", "image0, directory: /etc}", 1), "directory"),
        (WHOLE_DISK.replace("image0}", "image0, block_size: 4096}", 1), "512"),
        (WHOLE_DISK.replace("mkfs_root,", "mkfs_root, type: xfs,"), "the root is xfs"),
        (WHOLE_DISK.replace("mkfs_root,", "mkfs_root, type: 'ext4 /dev/sda',"), "is not one of"),
        (WHOLE_DISK.replace("mkfs_root,", "mkfs_root, uuid: nope,"), "no UUID"),
        (WHOLE_DISK.replace("mkfs_root,", "other,"), "needs"),
        (WHOLE_DISK + "- mount: {name: m, base: mkfs_root, mount_point: ../x}\n", "not a path"),
        (WHOLE_DISK + WHOLE_DISK, "refuses the configuration"),
        ("- local_loop: &a {name: image0}\n- local_loop: *a\n", "aliases"),
        (WHOLE_DISK.replace("options: defaults", "options: 2024-01-01"), "quote it"),
        ("- [", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        ("- " * 20000, "is no YAML"),
        (" " * 70000, "64 KiB"),
    ],
)
def test_what_cannot_be_made_is_refused_with_its_place(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "g.yaml:3" in str(caught.value.where)
    assert "disk.yaml" in str(caught.value.where)


WORDS = (
    *("local_loop", "partitioning", "partitions", "mkfs", "mount", "fstab", "name", "base"),
    *("label", "size", "type", "mount_point", "flags"),
)
leaves = st.none() | st.booleans() | st.integers(-9, 9)
values = st.recursive(
    leaves | st.sampled_from(["image0", "/", "ext4", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(value=st.lists(values, max_size=4))
def test_no_configuration_ends_in_anything_but_a_plan_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, value: list[object]
) -> None:
    directory = tmp_path_factory.getbasetemp()
    try:
        found = read(directory, repr(value).replace("None", "null"))
    except SpecError:
        return
    assert found.layout().boot_part.fs_uuid == ""


def test_the_disk_of_the_configuration_takes_the_place_of_imagekits(tmp_path: Path) -> None:
    plan = diskimage_builder.plan(BuildContext(spec_of(tmp_path, WHOLE_DISK), tmp_path / "out"))
    stages = {p.stage.name: p.stage for p in plan.stages}
    assert isinstance(stages["image"], BlockDeviceImage)
    assert "harvest.json" in stages["configs"].needs


def test_changing_the_configuration_makes_the_disk_anew_and_nothing_before(tmp_path: Path) -> None:
    file = spec_of(tmp_path, WHOLE_DISK)
    first = {
        p.stage.name: p.key
        for p in diskimage_builder.plan(BuildContext(file, tmp_path / "out")).stages
    }
    (tmp_path / "disk.yaml").write_text(WHOLE_DISK.replace("defaults", "noatime"))
    second = {
        p.stage.name: p.key
        for p in diskimage_builder.plan(BuildContext(file, tmp_path / "out")).stages
    }
    changed = {name for name in first if first[name] != second[name]}
    assert {"image", "configs"} <= changed
    assert not changed & {"rootfs", "disk-image-create", "system"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("boot.modes=[pv, hvm]", "boot loader"),
        ("disk.lvm=true", "disk.lvm"),
        ("disk.table=mbr", "disk.table"),
        ("install.block_device=nowhere.yaml", "cannot read"),
    ],
)
def test_what_the_spec_says_of_the_disk_beside_it_is_refused(
    tmp_path: Path, override: str, words: str
) -> None:
    file = spec_of(tmp_path, WHOLE_DISK, override)
    with pytest.raises(SpecError, match=words):
        diskimage_builder.plan(BuildContext(file, tmp_path / "out"))
