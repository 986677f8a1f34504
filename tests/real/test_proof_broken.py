"""Broken guests under a real Xen fail with the right cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from oracles import broken_guests
from oracles.builds import Build, Run
from oracles.proofs import report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


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


def test_a_guest_whose_firmware_runs_in_a_circle_is_started_anew(
    cache: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "circle.raw"
    # A boot sector: no interrupts (cli), then a jump to itself; 55 AA makes the BIOS start it.
    disk.write_bytes(b"\xfa\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    config = tmp_path / "circle.cfg"
    config.write_text(
        'name = "circle"\ntype = "hvm"\nmemory = 128\nserial = "pty"\n'
        f'disk = [ "format=raw, vdev=xvda, access=rw, target={disk}" ]\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "imagekit", "prove", "--config", config, "-o", tmp_path, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "IMAGEKIT_CACHE": str(cache)},
    )
    assert process.stdout is not None
    events = (json.loads(line) for line in process.stdout)
    notes = (e["text"] for e in events if e["event"] == "note" and "anew" in e["text"])
    # The second one says that the guest was really started again, and ran in a circle again.
    assert [next(notes), next(notes)] == [
        "circle-hvm-firmware-raw: the emulation lost its firmware; starting it anew"
    ] * 2
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
