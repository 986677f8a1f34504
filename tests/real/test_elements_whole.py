"""The whole of disk-image-create as a stage: its tree becomes a guest, its failures have names."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.elements import guest_spec, make_element
from support.stored import stored

pytestmark = pytest.mark.real
PIECE = 48 << 20


WHOLE = "  method: diskimage-builder\n  elements: [seed-os, xen-guest, mark]\n"
PARTITIONS = """
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: bios, type: EF02, size: 1MiB}
      - name: boot
        size: 256MiB
        mkfs: {type: ext4, mount: {mount_point: /boot, fstab: {options: noatime}}}
      - name: root
        size: 100%
        mkfs:
          type: ext4
          label: seeded
          opts: "-O ^64bit,^metadata_csum"
          mount: {mount_point: /, fstab: {options: errors=remount-ro, fsck-passno: 1}}
"""


def write_spec(directory: Path, name: str, body: str, more: str = "", file: str = "") -> Path:
    """A spec; of one ``name`` in two files, builds share what disk-image-create made."""
    path = directory / f"{file or name}.yaml"
    text = f"name: {name}\nos: {{suite: bookworm}}\ninstall:\n{body}  element_path: [e]\n{more}"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def tree(
    build: Callable[..., Build], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tree of a build with elements, as imagekit stored it: stands in for an installation."""
    built = build(guest_spec(tmp_path_factory.mktemp("tree"), "here", "debootstrap"))
    key = next(s["key"] for s in built.manifest["stages"] if s["name"] == "rootfs")
    return stored(cache, key, "rootfs.tar")


@pytest.fixture(scope="module")
def site(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the element "seed-os", which provides an operating system from a tar."""
    directory = tmp_path_factory.mktemp("site")
    element = make_element(
        directory / "e",
        "seed-os",
        {
            "element-provides": "operating-system\n",
            "root.d/10-seed": """
                #!/bin/bash
                set -eu -o pipefail
                cat $(dirname $0)/../pieces/* | sudo tar -C $TARGET_ROOT --numeric-owner -x
                """,
        },
        deps="dpkg\n",
    )
    (element / "pieces").mkdir()
    with tree.open("rb") as stream:
        for number in range(1000):
            piece = stream.read(PIECE)
            if not piece:
                break
            (element / f"pieces/{number:03d}").write_bytes(piece)
    make_element(
        directory / "e",
        "mark",
        {"finalise.d/50-mark": "#!/bin/bash\nset -eu\necho $IMAGE_ELEMENT > /etc/mark\n"},
    )
    return directory


def test_its_tree_becomes_a_guest_without_loop_devices_or_device_mapper(
    site: Path, build: Callable[..., Build]
) -> None:
    before = Path("/proc/mounts").read_text()
    built = build(write_spec(site, "whole", WHOLE))
    names = [s["name"] for s in built.manifest["stages"]]
    assert names[:2] == ["disk-image-create", "system"]
    assert built.manifest["kernel"]["pv"]["capable"] is True
    assert built.manifest["kernel"]["initrd"]["xen_blkfront"]["state"] == "module"
    assert "systemd-resolved" in {p["name"] for p in built.manifest["packages"]}
    log = next(
        built.path / a["path"]
        for a in built.manifest["artefacts"]
        if a["path"].endswith("disk-image-create.log")
    ).read_text()
    assert "Build completed successfully" in log
    assert "losetup" not in log
    assert "kpartx" not in log
    assert [m for m in Path("/proc/mounts").read_text().splitlines() if "dib_build" in m] == []
    assert "dib_build" not in before


def test_a_failing_element_is_named_as_in_our_own_pipeline(
    site: Path, imagekit: Run, tmp_path: Path
) -> None:
    make_element(
        site / "e",
        "bad-os",
        {
            "element-provides": "operating-system\n",
            "root.d/10-bad": "#!/bin/bash\nset -e\n\nfalse\n",
        },
    )
    body = "  method: diskimage-builder\n  elements: [bad-os]\n"
    spec = write_spec(site, "bad", body)
    done = imagekit("build", spec, "-o", tmp_path / "out", check=False)
    assert done.returncode == 5
    assert "the element bad-os failed in root.d/10-bad" in done.stderr
    assert [m for m in Path("/proc/mounts").read_text().splitlines() if "dib_build" in m] == []


def attached_loops() -> set[str]:
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if "image0" in path.read_text():
                found.add(path.parts[3])
    return found


def test_its_own_block_device_configuration_lays_out_the_disk(
    site: Path, build: Callable[..., Build]
) -> None:
    (site / "laid-disk.yaml").write_text(PARTITIONS)
    before = attached_loops()
    body = f"{WHOLE}  block_device: laid-disk.yaml\n"
    built = build(write_spec(site, "whole", body, "boot: {modes: [pv, pvh]}\n", "laid"))
    assert attached_loops() == before
    image = built.disk("raw")
    assert image.stat().st_size == 2 << 30
    table = json.loads(
        subprocess.run(["/sbin/sfdisk", "--json", image], capture_output=True, check=True).stdout
    )["partitiontable"]
    assert table["label"] == "gpt"
    assert [p["name"] for p in table["partitions"]] == ["bios", "boot", "root"]
    boot, root = (f"{image}?offset={p['start'] * 512}" for p in table["partitions"][1:])
    header = debugfs(root, "stats")
    assert "Filesystem volume name:   seeded" in header
    assert "metadata_csum" not in header
    uuid = header.split("Filesystem UUID:")[1].split()[0]
    assert debugfs(root, "cat /etc/fstab").split() == [
        *("LABEL=seeded", "/", "ext4", "errors=remount-ro", "0", "1"),
        *("LABEL=mkfs_boot", "/boot", "ext4", "noatime", "0", "2"),
    ]
    assert debugfs(root, "cat /etc/hostname") == "whole\n"
    menu = debugfs(boot, "cat /grub/grub.cfg")
    assert f"root=UUID={uuid}" in menu
    facts = json.loads((built.path / "facts.json").read_text())
    assert facts["partition_table"] == "gpt"
    assert f"root=UUID={uuid}" in facts["cmdline"]
    assert facts["bootloader_bios"] is False


def debugfs(target: str, command: str) -> str:
    return subprocess.run(
        ["/sbin/debugfs", "-R", command, target], capture_output=True, text=True, check=True
    ).stdout


def test_a_block_device_configuration_that_fails_leaves_no_device_behind(
    site: Path, imagekit: Run, tmp_path: Path
) -> None:
    (site / "small-disk.yaml").write_text(PARTITIONS.replace("256MiB", "1800MiB"))
    before = attached_loops()
    body = f"{WHOLE}  block_device: small-disk.yaml\n"
    spec = write_spec(site, "whole", body, "boot: {modes: [pv]}\n", "small")
    done = imagekit("build", spec, "-o", tmp_path / "out", check=False)
    assert done.returncode != 0
    assert "the guest does not fit on its disk" in done.stderr
    assert "disk.size" in done.stderr
    assert attached_loops() == before
