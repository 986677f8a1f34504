"""A guest installed over the network, harvested, and booted from its disk by the same PXE ROM."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.tiny_installer import HASH, KEY, Parts

from imagekit.disk import raw
from imagekit.disk.extents import copy_sparse
from imagekit.domain.bootpath import CONSOLES
from imagekit.errors import ToolError
from imagekit.host.kvm import kvm_works
from imagekit.installs.machine import Hardware, machine
from imagekit.installs.netboot_tree import netboot_guest, serving
from imagekit.installs.unattended import Limits, run_installer
from imagekit.netboot.publish import Site, publish
from imagekit.spec.derived import mac_of
from imagekit.spec.install import Netboot
from imagekit.spec.load import load_spec
from imagekit.vm.card import NetworkBoot

pytestmark = [pytest.mark.real, pytest.mark.slow]
# The installer is told not to make the initrd again, which alone takes a minute without KVM.
SPEC = """name: net01
os: {{distribution: debian, suite: bookworm, mirror: "http://10.0.2.2:{port}/mirror"}}
install:
  method: netboot
  kernel: {parts.kernel}
  initrd: {parts.initrd}
  args: tiny=quick
  golden: false
  memory: 768
  timeout: 1500
  idle: 400
disk: {{size: 1GiB, swap: 64MiB}}
boot: {{modes: [pv, hvm]}}
identity: {{ssh_keys: ["{key}"], root_password: {{file: hash}}}}
"""


@pytest.fixture(scope="module")
def spec(mirror: int, tiny_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net01.yaml"
    (path.parent / "hash").write_text(HASH + "\n")
    path.write_text(SPEC.format(port=mirror, parts=tiny_parts, key=KEY))
    return path


@pytest.fixture(scope="module")
def net(spec: Path, build: Callable[..., Build]) -> Build:
    """The guest net01, installed by PXE, DHCP, HTTP answers and HTTP mirror."""
    return build(spec)


def read(disk: Path, name: str) -> str:
    """A file of the root file system, by e2fsprogs' own reader."""
    table = subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=True).stdout
    offset = json.loads(table)["partitiontable"]["partitions"][-1]["start"] * 512
    done = subprocess.run(
        ["debugfs", "-R", f"cat {name}", f"{disk}?offset={offset}"], capture_output=True, check=True
    )
    return done.stdout.decode()


def test_the_guest_is_what_the_answers_said_and_is_harvested_as_from_iso(net: Build) -> None:
    disk = net.disk("raw")
    assert read(disk, "/etc/hostname").strip() == "net01"
    assert f"root:{HASH}:" in read(disk, "/etc/shadow")
    assert KEY in read(disk, "/root/.ssh/authorized_keys")
    assert net.manifest["install_method"] == "netboot"
    names = [stage["name"] for stage in net.manifest["stages"]]
    assert names[:4] == ["installer", "answers", "install", "harvest"]
    facts = json.loads(net.one("facts").read_text())
    assert facts["pygrub"]["ok"] and facts["bootloader_bios"]
    assert facts["cmdline"].startswith("root=UUID=") and "imagekit.done" not in facts["cmdline"]
    roles = {a["role"] for a in net.manifest["artefacts"]}
    assert roles >= {"disk", "kernel", "initrd", "domain-config", "facts", "answers", "lock"}


def test_the_answers_went_out_once_and_the_installer_flipped_its_guest_itself(net: Build) -> None:
    report = json.loads(net.one("netboot-report").read_text())
    assert report["mode"] == "local" and report["flipped_by"] == "the installer"
    log = (net.path / "logs/install-http.log").read_text().splitlines()
    assert [line.partition("GET ")[2].split("/")[1] for line in log if "GET" in line] == [
        *("images", "images", "answers", "done")
    ]
    assert all(line.startswith("127.0.0.1:") for line in log if "GET" in line)


def test_no_secret_of_the_answers_is_in_what_others_may_read(net: Build) -> None:
    for path in net.path.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".log", ".cfg", ".lock"):
            assert HASH.encode() not in path.read_bytes(), path


def test_the_flipped_tree_boots_the_guest_from_its_own_disk_by_the_same_rom(
    net: Build, spec: Path, tiny_parts: Parts, tmp_path: Path
) -> None:
    file = load_spec(spec)
    assert isinstance(file.spec.install, Netboot)
    root, disk = tmp_path / "root", tmp_path / "disk"
    copy_sparse(net.disk("raw"), disk)
    guest = netboot_guest(
        file.spec, file.spec.install, tiny_parts.kernel, tiny_parts.initrd, "", CONSOLES["hvm"]
    )
    said: list[str] = []
    with serving(root, tmp_path / "http.log") as port:
        site = Site(root, "", f"http://10.0.2.2:{port}")
        publish(site, [replace(guest, mode="local")])
        hardware = Hardware(
            NetworkBoot(root / "tftp", "boot.ipxe"),
            disk,
            512,
            kvm_works().works,
            mac=mac_of(file.spec, 0),
        )
        (tmp_path / "scratch").mkdir()
        with machine(
            hardware,
            scratch=tmp_path / "scratch",
            logs=tmp_path,
            listener=lambda _name, line: said.append(line),
        ) as running:
            until = time.monotonic() + 300
            while not booted(said) and running.step(0.5) and time.monotonic() < until:
                pass
    assert booted(said), said[-20:]
    assert "url=" not in booted(said) and not (tmp_path / "http.log").exists()


def booted(said: list[str]) -> str:
    """The command line that the installed kernel says it got."""
    return next((line for line in said if "Command line:" in line and "root=UUID=" in line), "")


def test_an_installer_that_cannot_be_fetched_is_told_by_the_firmwares_own_words(
    tmp_path: Path,
) -> None:
    for name in ("tftp", "scratch", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "tftp/boot.ipxe").write_text("#!ipxe\nkernel http://10.0.2.2:9/linux\nboot\n")
    raw.create(tmp_path / "disk", 1 << 20)
    hardware = Hardware(
        NetworkBoot(tmp_path / "tftp", "boot.ipxe"), tmp_path / "disk", 256, kvm_works().works
    )
    with pytest.raises(ToolError) as caught:
        run_installer(
            hardware,
            Limits(300, 120),
            scratch=tmp_path / "scratch",
            logs=tmp_path / "logs",
            note=lambda _text: None,
        )
    assert "could not fetch or start the installer" in caught.value.what
    assert "http://10.0.2.2:9/linux" in (tmp_path / "logs/console.log").read_text()


def test_a_kernel_that_is_not_the_one_named_is_never_booted(
    spec: Path, imagekit: Run, tmp_path: Path
) -> None:
    wrong = spec.with_name("wrong.yaml")
    text = spec.read_text()
    wrong.write_text(text.replace("  args:", f"  kernel_sha256: {'a' * 64}\n  args:"))
    done = imagekit("build", wrong, "-o", tmp_path / "out", check=False)
    assert done.returncode != 0 and "SHA-256" in done.stderr and not (tmp_path / "out").exists()
