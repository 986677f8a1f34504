"""Reads from the console of a guest that started where it got stuck, and why.

The sentences are those of the Linux kernel, initramfs-tools, dracut, systemd and GRUB.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from imagekit.proof.findings import findings_in

_ALERT = re.compile(r"ALERT! ")
_ROOT_LOST = re.compile(
    r"Gave up waiting for root|Unable to mount root fs|Cannot open root device"
    r"|Warning: /dev/\S+ does not exist"
)
_KERNEL_LOST = re.compile(r"Unable to mount root fs|Cannot open root device")
_LOADED = re.compile(r"Run /\S+ as init process|^Loading, please wait|dracut|systemd\[1\]: ", re.M)
_INITRD_BAD = re.compile(r"Initramfs unpacking failed|Decoding failed|invalid magic at start of")
_INITRD = re.compile(r"Trying to unpack rootfs image as initramfs|RAMDISK: \[mem|Freeing initrd")
_PANIC = re.compile(r"Kernel panic - not syncing")
_SHELL = re.compile(r"You are in (?:emergency|rescue) mode|Entering emergency mode")
_CMDLINE_ROOT = re.compile(r"ommand line:[^\n]*?\broot=(\S+)")
_BLKFRONT = re.compile(r"blkfront: (\w+):|\bxvd[a-z]+\d*: ")
_GRUB = re.compile(r"^grub(?P<rescue> rescue)?> ", re.MULTILINE)
_NO_DEVICE = re.compile(
    r"Timed out waiting for (?:device )?(?P<name>\S{1,200}?)(?:\.device)?(?:[. ]|$)", re.MULTILINE
)
_AWAITED = re.compile(r"Job (?P<name>dev-\S{1,200})\.device/start running|for (?P<path>/dev/\S+)")
# With systemd's StatusUnitFormat=combined (Debian) a job has its unit's name, else its description.
_JOB = re.compile(
    r"^\[[ *]{3,6}\] (?:\(\d+ of \d+\) )?"
    r"(?:Job (?P<unit>\S{1,200})/\w+ running|A \w+ job is running for (?P<title>[^\n]{1,200}?))"
    r" \((?P<past>[^()/\n]{1,20})/[^()\n]{1,20}\)$",
    re.MULTILINE,
)
LAST_JOBS = 200
"""Status lines, two a second, in which a unit must stand to be the one that hangs."""

HANGS = 90
"""Seconds of the guest's own clock after which a unit hangs and is not only slow; systemd's
DefaultTimeoutStartSec. The lab's clock counts instructions, so that a busy host adds none."""

LINES_AFTER = 5
"""After more lines of something else the boot has gone on."""


@dataclass(frozen=True)
class Stuck:
    """What a guest is stuck at: a cause's word, its message, what to do, and the line."""

    word: str
    message: str
    hint: str | None
    line: str | None


def whole_line(text: str, match: re.Match[str]) -> str:
    """The whole line in which ``match`` begins."""
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].split("\n", 1)[0]


def stuck_for_good(
    console: str, disks_connected: int, driver: str | None, full: tuple[str, ...]
) -> Stuck | None:
    """What the guest itself says to be its end, or None.

    ``driver`` is the one that its disks need, if there is only one; ``full`` are its full file
    systems.
    """
    return (
        _root_lost(console, disks_connected, driver)
        or _panicked(console)
        or _at_grub(console)
        or _emergency(console, full)
    )


def stuck_so_far(console: str, full: tuple[str, ...]) -> Stuck | None:
    """What a guest was busy with when its time was up, or None."""
    return _hanging(console) or disk_full(console, full) or _units_failed(console)


def _root_lost(console: str, disks_connected: int, driver: str | None) -> Stuck | None:
    lost = _ALERT.search(console) or _ROOT_LOST.search(console)
    if not lost:
        return None
    line = whole_line(console, lost)
    if disks_connected or _BLKFRONT.search(console):
        root = _CMDLINE_ROOT.search(console)
        named = f"root={root[1]}" if root else "its root="
        return Stuck(
            "root-not-found",
            f"the guest sees its disk but not its root file system: {named} names none on it",
            "compare it with the UUIDs on the disk (imagekit inspect)",
            line,
        )
    if bad := _INITRD_BAD.search(console):
        message = "the guest's kernel cannot unpack its initrd"
        hint = "rebuild it, packed in a way that this kernel was configured for"
        return Stuck("initrd-unreadable", message, hint, whole_line(console, bad))
    # With an initrd that works, it is not the kernel itself that looks for the root.
    if _KERNEL_LOST.search(line) and not _LOADED.search(console):
        if _INITRD.search(console) or not _CMDLINE_ROOT.search(console):
            message = "the kernel found no /init: the guest's initrd is empty, or is none"
            return Stuck("initrd-empty", message, "rebuild the initrd", line)
        message = "the guest's kernel got no initrd, and has no driver for its disk built in"
        return Stuck("initrd-missing", message, "name an initrd beside the kernel", line)
    if driver is None:
        message = "the guest's kernel found no disk: the driver for it is not in the initrd"
        return Stuck("no-disk-driver", message, "rebuild the initrd with it", line)
    return Stuck(
        "no-blkfront",
        f"the guest's kernel has no driver for its disk: {driver} is not in the initrd",
        f"add {driver} to the initrd (install.initrd_modules), or rebuild it",
        line,
    )


def _panicked(console: str) -> Stuck | None:
    panic = _PANIC.search(console)
    if not panic:
        return None
    return Stuck("kernel-panic", "the guest's kernel panicked", None, whole_line(console, panic))


def _at_grub(console: str) -> Stuck | None:
    prompt = _GRUB.search(console)
    if not prompt:
        return None
    line = whole_line(console, prompt)
    if prompt["rescue"]:
        message = "GRUB does not find the file system with its own modules"
        return Stuck("grub-rescue", message, "install GRUB on this disk again", line)
    return Stuck(
        "grub-no-entry",
        "GRUB found no entry to boot in its grub.cfg, or no grub.cfg, and waits at its prompt",
        "update-grub inside the guest writes it; imagekit inspect shows its entries",
        line,
    )


def _emergency(console: str, full: tuple[str, ...]) -> Stuck | None:
    shell = _SHELL.search(console)
    if not shell:
        return None
    absent = _NO_DEVICE.search(console)
    if absent:
        return _no_device(absent["name"], whole_line(console, absent))
    return disk_full(console, full) or Stuck(
        "emergency-mode",
        "the guest stopped in its emergency shell",
        "a file system in /etc/fstab, or a service needed for booting, failed",
        whole_line(console, shell),
    )


def _no_device(name: str, line: str) -> Stuck:
    return Stuck(
        "device-missing",
        f"the guest waits for {device_path(name)}, which does not exist",
        "if /etc/fstab names it, write UUID= there, or the name that Xen gives: xvda, xvda1",
        line,
    )


def device_path(name: str) -> str:
    """The device of a systemd unit's name: dev-sda1 is /dev/sda1 (systemd-escape(1), --path)."""
    if name.startswith("/"):
        return name[:200]
    path = name.removesuffix(".device").replace("-", "/")
    plain = re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), path)
    return f"/{plain}"[:200] if plain.isprintable() else f"/{path}"[:200]


def _hanging(console: str) -> Stuck | None:
    jobs = list(_JOB.finditer(console))[-LAST_JOBS:]
    if not jobs:
        return None
    last = jobs[-1]
    if sum(1 for line in console[last.end() :].splitlines() if line.strip()) > LINES_AFTER:
        return None
    line = whole_line(console, last)
    awaited = _AWAITED.search(line)
    if awaited:
        return _no_device(awaited["name"] or awaited["path"], line)
    counted = Counter(job["unit"] or job["title"] for job in jobs)
    names = " and ".join(name for name, _ in counted.most_common(2))
    if elapsed(last["past"]) < HANGS:
        return Stuck("unit-late", f"the guest's boot still waited for {names}", None, line)
    return Stuck(
        "unit-hangs",
        f"the guest's boot waits for {names}",
        "look at what this unit does; one that may take long gets Type=exec or TimeoutStartSec=",
        line,
    )


def elapsed(text: str) -> int:
    """Seconds in systemd's words: "2min 37s" is 157."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d{1,4})(h|min|s)\b", text))


def disk_full(console: str, full: tuple[str, ...]) -> Stuck | None:
    """That a file system of the guest is full, as its image or its console says."""
    said = re.search(r"No space left on device", console)
    if not full and not said:
        return None
    line = full[0] if full else whole_line(console, said) if said else None
    hint = "delete something in the image, or give it a larger disk (disk.size)"
    return Stuck("disk-full", "a file system of the guest is full", hint, line)


def _units_failed(console: str) -> Stuck | None:
    failed = [finding for finding in findings_in(console) if finding.kind == "unit-failed"]
    if not failed:
        return None
    message = "the guest was not up in time, and units of it failed"
    return Stuck("unit-failed", message, "the findings name them", failed[0].line)
