"""Whole builds with elements: ours and diskimage-builder's, cached by phase, failing by name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.elements import make_element

pytestmark = pytest.mark.real
OURS = (
    "xen-guest, xen-pv-kernel, lvm-root, cloud-init-xen, golden, serial-console, growroot, "
    "ssh-hardening"
)


def write_spec(directory: Path, elements: str) -> Path:
    path = directory / "el01.yaml"
    path.write_text(
        "name: el01\n"
        "os: {suite: bookworm}\n"
        f"install:\n  method: debootstrap\n  elements: [{elements}]\n"
        "  element_path: [elements]\n"
    )
    (directory / "elements").mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    make_element(
        directory / "elements",
        "mine",
        {
            "post-install.d/70-mine": "#!/bin/bash\nset -eu\necho ours > /etc/mine\n",
            "finalise.d/70-mine": "#!/bin/sh\nset -eu\ncat /etc/mine\n",
        },
    )
    write_spec(directory, f"{OURS}, sysprep, element-manifest, journal-to-console, mine")
    return directory


@pytest.fixture(scope="module")
def built(site: Path, build: Callable[..., Build]) -> Build:
    return build(site / "el01.yaml")


def cat(built: Build, path: str) -> str:
    table = subprocess.run(
        ["/sbin/sfdisk", "--json", built.disk("raw")], capture_output=True, check=True
    ).stdout
    start = json.loads(table)["partitiontable"]["partitions"][-1]["start"] * 512
    target = f"{built.disk('raw')}?offset={start}"
    done = subprocess.run(
        ["/sbin/debugfs", "-R", f"cat {path}", target], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_all_our_elements_and_some_of_diskimage_builder_build_a_guest(built: Build) -> None:
    packages = {p["name"] for p in built.manifest["packages"]}
    assert {"lvm2", "cloud-init", "cloud-guest-utils", "openssh-server"} <= packages
    for mode in ("pv", "pvh", "hvm"):
        assert built.manifest["kernel"][mode]["capable"] is True
    listing = subprocess.run(
        ["lsinitramfs", built.one("initrd")], capture_output=True, text=True, check=True
    ).stdout
    for wanted in ("xen-blkfront.ko", "xen-netfront.ko", "dm-mod.ko", "sbin/lvm"):
        assert wanted in listing


def test_what_elements_did_is_in_the_image(built: Build) -> None:
    assert cat(built, "/etc/mine") == "ours\n"
    assert "PasswordAuthentication no" in cat(built, "/etc/ssh/sshd_config.d/00-ssh-hardening.conf")
    assert "pv CONFIG_XEN_PV=y" in cat(built, "/usr/share/xen-kernel/evidence")
    assert "OpenNebula" in cat(built, "/etc/cloud/cloud.cfg.d/95_xen.cfg")
    assert cat(built, "/etc/machine-id") == ""
    assert "console=hvc0" in cat(built, "/etc/default/grub.d/50-xen-guest.cfg")


def test_a_second_build_runs_nothing_and_a_changed_script_only_its_phase_and_what_follows(
    site: Path, built: Build, build: Callable[..., Build]
) -> None:
    again = build(site / "el01.yaml")
    # Domain configs name the build directory, which is another one.
    assert {s["name"] for s in again.manifest["stages"] if not s["cached"]} <= {"configs"}
    script = site / "elements/mine/finalise.d/70-mine"
    script.write_text("#!/bin/sh\nset -eu\necho again > /etc/mine\n")
    changed = build(site / "el01.yaml")
    ran = {s["name"] for s in changed.manifest["stages"] if not s["cached"]}
    assert {"elements-finalise", "elements-cleanup", "system", "image"} <= ran
    assert not ran & {"rootfs", "elements-install", "elements-post-install"}
    assert cat(changed, "/etc/mine") == "again\n"


def test_a_failing_element_ends_the_build_by_name_and_keeps_its_log(
    site: Path, built: Build, imagekit: Run, tmp_path: Path
) -> None:
    script = site / "elements/mine/post-install.d/70-mine"
    before = script.read_text()
    script.write_text("#!/bin/bash\nset -eu\ntrue\nls /not-there\n")
    try:
        done = imagekit("build", site / "el01.yaml", "-o", tmp_path / "out", check=False)
    finally:
        script.write_text(before)
    assert done.returncode == 5
    assert "the element mine failed in post-install.d/70-mine line 4 (ls /not-there)" in done.stderr
    log = Path(done.stderr.split("the whole log is in ")[1].split()[0])
    assert "/not-there" in log.read_text()
    assert not (tmp_path / "out" / "manifest.json").exists()
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    assert [m for m in mounts if m.startswith(("/dev/shm/imagekit", str(log.parents[2])))] == []
