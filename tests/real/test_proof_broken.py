"""Broken guests under a real Xen fail with the right cause."""

from __future__ import annotations

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
