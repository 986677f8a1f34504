"""Broken guests under a real Xen fail, and the report names the cause.

All guests of a test share one lab. What is slow and shows no more than a unit test with the same
console's text (tests/unit/proof/consoles) is left to ``make test-long``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oracles import broken_guests
from oracles.builds import Build, Run
from oracles.proofs import report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]

Make = Callable[[Build, Path], Path]
Expected = tuple[Make, str, str]

QUICK: list[Expected] = [
    (broken_guests.wrong_bridge, "bridge-missing", "bridge"),
    (broken_guests.kernel_without_pv, "kernel-without-note", "ELF note"),
    (broken_guests.compressed_otherwise, "kernel-compression", "cannot unpack"),
    (broken_guests.unreadable_grub, "pygrub-no-entry", "pygrub"),
    (broken_guests.truncated_qcow2, "image-damaged", "damaged"),
    (broken_guests.empty_initrd, "initrd-empty", "initrd is empty"),
    (broken_guests.grub_without_entry, "grub-no-entry", "GRUB found no entry"),
    (broken_guests.initrd_without_blkfront, "no-blkfront", "xen-blkfront"),
]
SLOW: list[Expected] = [
    (broken_guests.wrong_root, "root-not-found", "root=UUID=00000000-1111"),
    (broken_guests.fstab_by_device_name, "device-missing", "/dev/sda2"),
    (broken_guests.hanging_unit, "unit-hangs", "forever.service"),
    (broken_guests.no_console, "no-console", "its console shows no login"),
]


def test_what_is_broken_before_the_root_is_mounted(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    _fail_with_their_causes(QUICK, demo, imagekit, tmp_path)


@pytest.mark.long
def test_what_breaks_while_the_guest_boots(demo: Build, imagekit: Run, tmp_path: Path) -> None:
    _fail_with_their_causes(SLOW, demo, imagekit, tmp_path, "--timeout", "200")


@pytest.mark.long
def test_a_full_disk_is_a_finding_and_a_failure_only_strictly(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    config = broken_guests.full_disk(demo, tmp_path)
    done = imagekit("prove", "--config", config, "-o", tmp_path, timeout=1500)
    assert "up, with findings" in done.stdout
    (found,) = report_of(tmp_path)["boots"]
    assert found["ok"]
    assert found["findings"][0]["kind"] == "disk-full"
    assert found["findings"][0]["line"].startswith("ext4 on partition 3 of the image: ")
    # The units that could not write; which ones, depends on the distribution.
    assert "unit-failed" in [finding["kind"] for finding in found["findings"]]
    (tmp_path / "full.raw").unlink()


def _fail_with_their_causes(
    expected: list[Expected], demo: Build, imagekit: Run, tmp_path: Path, *options: str
) -> None:
    configs = [make(demo, tmp_path) for make, _, _ in expected]
    build = broken_guests.together(configs, tmp_path)
    done = imagekit("prove", build, "--jobs", "1", *options, check=False, timeout=3000)
    assert done.returncode == 11, done.stdout + done.stderr
    found = {Path(boot["config"]).name.split(".")[0]: boot for boot in report_of(build)["boots"]}
    for config, (_, cause, part) in zip(configs, expected, strict=True):
        failure = found[config.stem]["failure"]
        assert failure["cause"] == cause, failure
        assert part in failure["message"]
        assert failure["message"] in done.stdout
        assert failure["evidence"] or cause == "no-console"
    for image in tmp_path.glob("*.raw"):
        image.unlink()
