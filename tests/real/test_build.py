"""The demo build, judged by other people's programs: qemu-img, libvhdi, pygrub, xl, GRUB, QEMU."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles import xl_model, xl_reader
from oracles.builds import ROOT, Build, Run

from imagekit.domain.bootpath import domain_for
from imagekit.domain.facts import BuildFacts

pytestmark = pytest.mark.real
PYGRUB = "/usr/lib/xen-4.17/bin/pygrub"


def output(*argv: str | Path) -> str:
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_every_artefact_is_as_the_manifest_says(demo: Build) -> None:
    roles = [a["role"] for a in demo.manifest["artefacts"]]
    for role in ("disk", "kernel", "initrd", "domain-config", "log"):
        assert role in roles
    for artefact in demo.manifest["artefacts"]:
        path = demo.path / artefact["path"]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        assert digest == artefact["sha256"]
        assert path.stat().st_size == artefact["bytes"]
    for mode in ("pv", "pvh", "hvm"):
        assert demo.manifest["kernel"][mode]["capable"] is True
        assert demo.manifest["kernel"][mode]["evidence"]
    assert {"name", "version", "architecture"} == set(demo.manifest["packages"][0])
    assert "openssh-server" in {p["name"] for p in demo.manifest["packages"]}
    assert demo.manifest["kernel"]["initrd"]["xen_blkfront"]["state"] == "module"


def test_all_formats_hold_the_same_disk_for_qemu(demo: Build) -> None:
    raw = demo.disk("raw")
    for image_format, driver in (("qcow2", "qcow2"), ("vhd", "vpc")):
        path = demo.disk(image_format)
        assert "identical" in output("qemu-img", "compare", "-f", "raw", "-F", driver, raw, path)
    assert "No errors" in output("qemu-img", "check", "-f", "qcow2", demo.disk("qcow2"))
    info = json.loads(output("qemu-img", "info", "--output=json", "-f", "vpc", demo.disk("vhd")))
    assert info["virtual-size"] == raw.stat().st_size


def test_libvhdi_reads_the_vhd_at_its_exact_size(demo: Build) -> None:
    text = output("vhdiinfo", demo.disk("vhd"))
    size = re.search(r"Media size\s*:.*?\((\d+) bytes\)|Media size\s*:\s*(\d+)", text)
    assert size is not None, text
    assert int(size[1] or size[2]) == demo.disk("raw").stat().st_size


def test_pygrub_boots_what_inspect_says(demo: Build, imagekit: Run, tmp_path: Path) -> None:
    argv: list[str | Path] = [
        PYGRUB,
        "-q",
        "--output-format=simple",
        "--output-directory",
        tmp_path,
    ]
    text = subprocess.run(
        [*argv, demo.disk("raw")], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.split(" ", 1) for line in text.splitlines() if line)
    inspection = json.loads(
        imagekit("inspect", demo.disk("raw"), "--format", "raw", "--json").stdout
    )
    entry = inspection["default_entry"]
    assert found["args"] == entry["args"]
    assert Path(found["kernel"]).read_bytes() == demo.one("kernel").read_bytes()
    assert Path(found["ramdisk"]).read_bytes() == demo.one("initrd").read_bytes()
    release = demo.manifest["kernel"]["release"]
    assert entry["kernel"].endswith(f"/vmlinuz-{release}")
    assert entry["initrd"].endswith(f"/initrd.img-{release}")
    assert inspection["boot_paths"]


@pytest.mark.parametrize("mode", ["pv", "pvh", "hvm"])
def test_xl_reads_the_delivered_config_as_the_domain_model(demo: Build, mode: str) -> None:
    text = demo.one("domain-config", mode=mode, toolstack="xl").read_text()
    facts = BuildFacts.from_json(demo.manifest["facts"]).located(str(demo.path))
    domain = domain_for(facts, mode=mode, toolstack="xl")  # type: ignore[arg-type]
    reading = xl_reader.read(text)
    assert reading.complaints == ()
    assert xl_model.from_xl(reading.config) == xl_model.expected(domain)


@pytest.mark.parametrize(
    ("mode", "boot", "expected"),
    [
        ("pv", "pygrub", '"pygrub"'),
        ("pv", "pvgrub", "grub-x86_64-xen.bin"),
        ("pv", "direct", "web01-vmlinuz"),
        ("pvh", "direct", "web01-vmlinuz"),
        ("pvh", "pygrub", '"pygrub"'),
        ("pvh", "pvgrub", "grub-i386-xen_pvh.bin"),
        ("hvm", "firmware", "bios"),
    ],
)
def test_config_words_every_boot_path_and_xl_takes_it(
    demo: Build, imagekit: Run, mode: str, boot: str, expected: str
) -> None:
    args = ("config", demo.path, "--toolstack", "xl", "--mode", mode, "--boot", boot)
    text = imagekit(*args).stdout
    assert expected in text
    reading = xl_reader.read(text)
    assert reading.returncode == 0
    assert reading.complaints == ()


def test_fsck_finds_nothing_and_grub_reads_its_menu(demo: Build, tmp_path: Path) -> None:
    layout = json.loads(output("/sbin/sfdisk", "--json", demo.disk("raw")))["partitiontable"]
    root = layout["partitions"][-1]
    target = f"{demo.disk('raw')}?offset={root['start'] * 512}"
    done = subprocess.run(["/sbin/e2fsck", "-fn", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    listing = subprocess.run(
        ["grub-fstest", demo.disk("raw"), "cat", "(loop0,gpt3)/boot/grub/grub.cfg"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"vmlinuz-{demo.manifest['kernel']['release']}" in listing


def tree_file(demo: Build, path: str) -> str:
    layout = json.loads(output("/sbin/sfdisk", "--json", demo.disk("raw")))["partitiontable"]
    target = f"{demo.disk('raw')}?offset={layout['partitions'][-1]['start'] * 512}"
    done = subprocess.run(
        ["/sbin/debugfs", "-R", f"cat {path}", target], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_no_identity_is_baked_into_the_image(demo: Build) -> None:
    layout = json.loads(output("/sbin/sfdisk", "--json", demo.disk("raw")))["partitiontable"]
    target = f"{demo.disk('raw')}?offset={layout['partitions'][-1]['start'] * 512}"
    listing = subprocess.run(
        ["/sbin/debugfs", "-R", "ls -p /etc/ssh", target], capture_output=True, text=True
    ).stdout
    assert "sshd_config" in listing
    assert "ssh_host_" not in listing
    assert tree_file(demo, "/etc/machine-id") == ""
    assert tree_file(demo, "/etc/hostname") == "web01\n"
    assert tree_file(demo, "/var/lib/systemd/random-seed") == ""


def test_fstab_names_no_device_and_networks_match_by_mac(demo: Build) -> None:
    assert "/dev/" not in tree_file(demo, "/etc/fstab")
    mac = demo.manifest["facts"]["nics"][0]["mac"]
    network = tree_file(demo, "/etc/systemd/network/10-imagekit-vif0.network")
    assert f"MACAddress={mac}" in network
    assert mac in demo.one("domain-config", mode="pv", toolstack="xl").read_text()


def test_a_second_build_runs_nothing_and_ends_within_a_second(demo: Build, imagekit: Run) -> None:
    before = {a["path"]: (demo.path / a["path"]).stat() for a in demo.manifest["artefacts"]}
    for name in ("manifest.json", "SHA256SUMS"):
        before[name] = (demo.path / name).stat()
    done = imagekit("build", ROOT / "examples/web01.yaml", "-o", demo.path, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e for e in events if e["event"] == "stage-started"] == []
    finished = [e for e in events if e["event"] == "stage-finished"]
    assert len(finished) == len(demo.manifest["stages"])
    assert all(e["cached"] for e in finished)
    for path, status in before.items():
        after = (demo.path / path).stat()
        assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


def test_changing_an_injected_file_reruns_only_the_image(
    demo: Build, build: Callable[..., Build], tmp_path: Path
) -> None:
    again = build(ROOT / "examples/web01.yaml", "--set", "files=[{target: /etc/motd, content: hi}]")
    ran = {s["name"] for s in again.manifest["stages"] if not s["cached"]}
    assert ran == {"image", "configs", "lock", "qcow2", "vhd"}
    assert tree_file(again, "/etc/motd") == "hi"
