"""Causes, told from what Xen 4.17, pygrub, initramfs-tools and Linux really said."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.proof.console import clean
from imagekit.proof.diagnose import Evidence, diagnose
from imagekit.proof.stuck import device_path, elapsed

CONSOLES = Path(__file__).parent / "consoles"
NO_BRIDGE = """libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: \
/etc/xen/scripts/vif-bridge online [242] exited with error status 1
libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: \
Could not find bridge device xenbr9
libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 1:unable to add vif devices
"""
NOT_READY = """libxl: error: libxl_device.c:1484:libxl__wait_for_backend: Backend \
/local/domain/0/backend/qdisk/0/51712 not ready
"""
NO_VPC = """xen-qemu-system-i386: failed to create 'qdisk' device '51712': \
failed to create drive: Unknown driver 'vpc'
"""
NO_OVMF = """libxl: error: libxl_dom.c:818:libxl__load_hvm_firmware_module: failed to read \
BIOS file: No such file or directory
libxl: error: libxl_dom.c:1075:libxl__build_hvm: initializing domain firmware failed
"""
NO_NOTE = """xc: error: panic: xg_dom_core.c:689: xc_dom_find_loader: \
no loader found: Invalid kernel
libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed
libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 2:cannot (re-)build domain: -3
"""
BOOTLOADER_FAILED = """libxl: error: libxl_bootloader.c:767:bootloader_finished: Domain 3:\
bootloader failed - consult logfile /var/log/xen/bootloader.3.log
libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: bootloader [318] exited with \
error status 1
"""
PYGRUB = """Using <class 'grub.GrubConf.Grub2ConfigFile'> to parse /boot/grub/grub.cfg
WARNING:root:Unknown directive menuentry
Traceback (most recent call last):
  File "/usr/lib/xen-4.17/bin/pygrub", line 1032, in <module>
    raise RuntimeError("Unable to find partition containing kernel")
RuntimeError: Unable to find partition containing kernel
"""
NO_NETBOOT = """pypxeboot: address 198.18.0.10, boot server 198.18.0.1
pypxeboot: the boot server has no config for this guest
  hint: looked for pxelinux.cfg/01-00-16-3e-10-20-36
"""
NETBOOTED = """pypxeboot: address 198.18.0.10, boot server 198.18.0.1
pypxeboot: config pxelinux.cfg/default
pypxeboot: kernel tftp://198.18.0.1/linux
pypxeboot: initrd tftp://198.18.0.1/initrd
"""
GAVE_UP = """[    0.0] Command line: root=UUID=de8d8e97-5704-4875-94af-27fecf794d4e ro console=hvc0
Begin: Running /scripts/local-block ... done.
Gave up waiting for root file system device.  Common problems:
 - Boot args (cat /proc/cmdline)
ALERT!  UUID=de8d8e97-5704-4875-94af-27fecf794d4e does not exist.  Dropping to a shell!
(initramfs) """
PANIC = """[    5.1] VFS: Cannot open root device "UUID=x" or unknown-block(0,0): error -6
[    5.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
"""
INIT_DIED = "[    7.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n"
FAILED_UNIT = "[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.\n"
UNREADABLE = """[    7.9] Initramfs unpacking failed: invalid magic at start of compressed archive
[   11.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
"""
NO_ZSTD = """xc: error: panic: xg_dom_bzimageloader.c:798: xc_dom_probe_bzimage_kernel unable to \
ZSTD decompress kernel: Invalid kernel
"""
EMERGENCY = 'You are in emergency mode. After logging in, type "journalctl -xb" to view\n'


def evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "mode": "pv", "verdict": "lost", "created": True, "console": "", "xl": "",
        "bootloader": "",
    }  # fmt: skip
    return Evidence(**{**values, **changes})


@pytest.mark.parametrize(
    ("given_evidence", "cause", "word"),
    [
        (evidence(created=False, xl=NO_BRIDGE), "bridge-missing", "xenbr9"),
        (evidence(created=False, xl=NO_NOTE), "kernel-without-note", "no loader found"),
        (
            evidence(created=False, xl=BOOTLOADER_FAILED, bootloader=PYGRUB),
            "pygrub-no-entry",
            "Unable to find partition",
        ),
        (
            evidence(created=False, bootloader="Traceback\nOSError: [Errno 95] no\n"),
            "pygrub-failed",
            "OSError",
        ),
        (
            evidence(created=False, xl=BOOTLOADER_FAILED, bootloader=NO_NETBOOT),
            "netboot-failed",
            "no config for this guest",
        ),
        (
            evidence(created=False, xl=NO_BRIDGE, bootloader=NETBOOTED),
            "bridge-missing",
            "xenbr9",
        ),
        (evidence(created=False, xl=NOT_READY, others=NO_VPC), "format-unsupported", "vpc"),
        (evidence(created=False, xl=NO_OVMF), "no-firmware", "BIOS file"),
        (evidence(created=False, xl="libxl: error: something new"), "create-failed", None),
        (evidence(created=False, error="TimeoutError: no disk"), "lab", None),
        (evidence(console=GAVE_UP), "no-blkfront", "does not exist|Gave up"),
        (evidence(console=GAVE_UP, disks_connected=1), "root-not-found", "does not exist|Gave up"),
        (evidence(console="blkfront: xvda: flush\n" + GAVE_UP), "root-not-found", None),
        (evidence(console=PANIC, disks_connected=1), "root-not-found", "root"),
        (evidence(console=PANIC), "initrd-empty", "root"),
        (evidence(console=GAVE_UP, mode="bare"), "no-disk-driver", None),
        (evidence(verdict="create", created=False, create_late=True), "create-late", None),
        (evidence(verdict="timeout", disks_connected=1), "no-console", None),
        (evidence(verdict="timeout", leased="198.18.0.9", console="GRUB"), "no-console", None),
        (evidence(verdict="timeout", console=FAILED_UNIT), "unit-failed", "ssh.service"),
        (
            evidence(verdict="timeout", console=FAILED_UNIT, full=("ext4: 0 free",)),
            "disk-full",
            "0 free",
        ),
        (
            evidence(verdict="timeout", console="mkdir: No space left on device\n"),
            "disk-full",
            None,
        ),
        (evidence(console="\ngrub rescue> "), "grub-rescue", "grub"),
        (evidence(console=UNREADABLE), "initrd-unreadable", "unpacking failed"),
        (evidence(created=False, xl=NO_ZSTD), "kernel-compression", "decompress"),
        (evidence(console=INIT_DIED, disks_connected=1), "kernel-panic", "kill init"),
        (evidence(console=EMERGENCY, disks_connected=1), "emergency-mode", "emergency"),
        (evidence(verdict="timeout"), "silent", None),
        (evidence(verdict="timeout", mode="hvm"), "silent", None),
        (evidence(verdict="circling", mode="hvm"), "firmware-lost", None),
        (evidence(verdict="gone", console="[ 0.1] Linux\n"), "guest-ended", None),
        (evidence(verdict="timeout", console="[ 0.1] Linux\n"), "timeout", None),
    ],
)
def test_each_known_failure_gets_its_cause(
    given_evidence: Evidence, cause: str, word: str | None
) -> None:
    failure = diagnose(given_evidence)
    assert failure.cause == cause
    if word is not None:
        assert failure.evidence is not None
        assert any(part in failure.evidence for part in word.split("|"))


@pytest.mark.parametrize(
    ("name", "cause", "part"),
    [
        ("empty-initrd", "initrd-empty", "initrd is empty"),
        ("fstab-device-name", "device-missing", "/dev/sda2"),
        ("full-disk", "unit-failed", "units of it failed"),
        ("grub-no-entry", "grub-no-entry", "grub.cfg"),
        ("hanging-unit", "unit-hangs", "forever.service"),
        ("no-blkfront", "no-blkfront", "xen-blkfront"),
        ("wrong-root", "root-not-found", "root=UUID=00000000-1111"),
    ],
)
def test_what_real_guests_of_debian_12_said_under_xen(name: str, cause: str, part: str) -> None:
    text = clean((CONSOLES / f"{name}.log").read_bytes())
    failure = diagnose(evidence(verdict="timeout", console=text))
    assert (failure.cause, part in failure.message) == (cause, True), failure
    assert failure.evidence


@pytest.mark.parametrize("name", ["unknown-compression", "zstd-on-xen-4.14"])
def test_a_kernel_that_xen_cannot_unpack_is_no_kernel_without_notes(name: str) -> None:
    text = (CONSOLES / f"{name}.xl.log").read_text()
    failure = diagnose(evidence(verdict="create", created=False, xl=text))
    assert failure.cause == "kernel-compression"
    assert "unknown compression format" in (failure.evidence or "")


def test_a_job_that_ended_does_not_hang() -> None:
    status = "[***   ] Job apt.service/start running (9s / no limit)\n"
    later = "".join(f"[   5{n}.0] eth{n}: up\n" for n in range(9))
    hanging = diagnose(evidence(verdict="timeout", console=status * 9))
    assert (hanging.cause, "apt.service" in hanging.message) == ("unit-late", True)
    assert diagnose(evidence(verdict="timeout", console=status + later)).cause == "timeout"


def test_other_systemd_words_for_a_job_that_hangs() -> None:
    text = "[ *** ] (1 of 2) A start job is running for Raise network (1min 30s / 5min 2s)\n"
    failure = diagnose(evidence(verdict="timeout", console=text))
    assert (failure.cause, "Raise network" in failure.message) == ("unit-hangs", True)
    text = "[ ***  ] A start job is running for /dev/sdb1 (8s / 1min 30s)\n"
    failure = diagnose(evidence(verdict="timeout", console=text))
    assert (failure.cause, "/dev/sdb1" in failure.message) == ("device-missing", True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2min 37s ", 157), ("8s", 8), ("1h 2min", 3720), ("no limit", 0)]
)
def test_systemds_words_for_a_time_are_seconds_again(text: str, seconds: int) -> None:
    assert elapsed(text) == seconds


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("dev-sda1.device", "/dev/sda1"),
        ("/dev/sda1", "/dev/sda1"),
        (r"dev-disk-by\x2duuid-1234\x2d5678", "/dev/disk/by-uuid/1234-5678"),
        (r"dev-x\x1by", r"/dev/x\x1by"),
    ],
)
def test_a_units_name_is_a_device_again(unit: str, path: str) -> None:
    assert device_path(unit) == path


def test_the_wrong_root_is_named() -> None:
    failure = diagnose(evidence(console=GAVE_UP, disks_connected=1))
    assert "root=UUID=de8d8e97-5704-4875-94af-27fecf794d4e" in failure.message


def test_a_failure_brings_the_last_lines_of_every_log() -> None:
    failure = diagnose(evidence(created=False, xl=BOOTLOADER_FAILED, bootloader=PYGRUB))
    assert "RuntimeError: Unable to find partition containing kernel" in failure.bootloader
    assert any("bootloader failed" in line for line in failure.xl)


@given(st.binary(max_size=400), st.booleans())
def test_any_output_whatever_gets_some_diagnosis(data: bytes, created: bool) -> None:
    text = clean(data)
    failure = diagnose(evidence(created=created, console=text, xl=text, bootloader=text))
    assert failure.cause
    assert failure.message


@pytest.mark.parametrize("text", ["x" * (1 << 20), "error " * (1 << 17), "\n" * (1 << 20)])
def test_a_hostile_log_does_not_take_long(text: str) -> None:
    started = time.monotonic()
    diagnose(evidence(created=False, xl=text, bootloader=text, others=text))
    diagnose(evidence(console=text, others=text))
    assert time.monotonic() - started < 60
