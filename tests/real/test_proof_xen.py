"""Guests under a real Xen: the demo image in every way it claims, and broken ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from oracles import broken_guests
from oracles.builds import Build, Run

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for configs and reports."""
    return tmp_path_factory.mktemp("proof")


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "proof.json").read_text())
    return report


def assert_up(boot: dict[str, Any], kind: str) -> None:
    assert boot["ok"], boot["failure"]
    assert boot["guest_type"] == kind
    assert boot["evidence"]
    assert boot["disks"] == ["xvda"]
    (mac,) = boot["dhcp"]
    assert boot["nics"] == [mac]
    assert boot["dhcp"][mac].startswith("198.18.0.")
    console = Path(boot["console"]).read_text(errors="replace")
    assert "web01 login:" in console
    for sign in ("segfault", "general protection", "traps:"):
        assert sign not in console


@pytest.mark.parametrize(("mode", "boot"), [("pv", "pygrub"), ("pv", "direct"),
                                            ("pvh", "direct"), ("pvh", "pygrub")])  # fmt: skip
def test_the_demo_image_boots_from_raw(demo: Build, imagekit: Run, mode: str, boot: str) -> None:
    imagekit("prove", demo.path, "--mode", mode, "--boot", boot, timeout=1500)
    report = report_of(demo.path)
    (found,) = report["boots"]
    assert (found["mode"], found["boot"], found["format"]) == (mode, boot, "raw")
    assert_up(found, mode.upper())


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_the_demo_image_boots_from_other_formats(
    demo: Build, imagekit: Run, image_format: str
) -> None:
    before = demo.disk(image_format).stat()
    imagekit("prove", demo.path, "--mode", "pv", "--format", image_format, timeout=1500)
    (found,) = report_of(demo.path)["boots"]
    assert (found["boot"], found["format"]) == ("pygrub", image_format)
    assert_up(found, "PV")
    after = demo.disk(image_format).stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_the_demo_image_boots_as_hvm_from_its_own_boot_loader(demo: Build, imagekit: Run) -> None:
    imagekit("prove", demo.path, "--mode", "hvm", timeout=3000)
    (found,) = report_of(demo.path)["boots"]
    assert found["boot"] == "firmware"
    assert_up(found, "HVM with PV drivers")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (broken_guests.wrong_bridge, "bridge-missing"),
        (broken_guests.kernel_without_pv, "kernel-without-note"),
        (broken_guests.unreadable_grub, "pygrub-no-entry"),
        (broken_guests.initrd_without_blkfront, "no-blkfront"),
        (broken_guests.wrong_root, "root-not-found"),
        (broken_guests.truncated_qcow2, "image-damaged"),
    ],
)
def test_a_broken_guest_fails_with_the_right_cause(
    demo: Build, imagekit: Run, tmp_path: Path, make: Any, cause: str
) -> None:
    config = make(demo, tmp_path)
    done = imagekit("prove", "--config", config, "-o", tmp_path, check=False, timeout=1500)
    assert done.returncode == 11, done.stdout + done.stderr
    (found,) = report_of(tmp_path)["boots"]
    assert found["failure"]["cause"] == cause, found["failure"]
    assert found["failure"]["message"] in done.stdout
    assert found["failure"]["evidence"]


def test_somebody_elses_image_is_proven_with_its_config(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    config = tmp_path / "theirs.cfg"
    config.write_text(
        'name = "theirs"\nmemory = 512\nbootloader = "pygrub"\n'
        "disk = [ 'phy:/dev/vg-of-theirs/root,xvda,w' ]\n"
    )
    image = demo.disk("raw")
    expected = ["--image", image, "--config", config, "-o", tmp_path]
    imagekit("prove", *expected, timeout=1500)
    (found,) = report_of(tmp_path)["boots"]
    assert (found["ok"], found["nics"], found["disks"]) == (True, [], ["xvda"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killing_a_proof_leaves_no_machine_and_no_file(
    demo: Build, cache: Path, imagekit: Run, tmp_path: Path, number: signal.Signals
) -> None:
    config = demo.one("domain-config", mode="pv")
    argv = [sys.executable, "-m", "imagekit", "prove", "--config", config, "-o", tmp_path]
    with subprocess.Popen(
        [str(a) for a in argv], env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        deadline = time.monotonic() + 600
        while not machines(cache) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert machines(cache)
        time.sleep(3)
        child.send_signal(number)
        child.wait(60)
    deadline = time.monotonic() + 10
    while machines(cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert machines(cache) == []
    if number == signal.SIGKILL:  # nobody can clean up then; the next run does
        imagekit("prove", "--config", broken_guests.unreadable_grub(demo, tmp_path),
                 "-o", tmp_path, check=False, timeout=600)  # fmt: skip
    assert [p for p in (cache / "work").iterdir() if p.suffix != ".lock"] == []


def machines(cache: Path) -> list[str]:
    """Process ids of every QEMU that works below ``cache``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if argv.startswith(b"/usr/bin/qemu-system") and str(cache).encode() in argv:
                found.append(entry.name)
    return found
