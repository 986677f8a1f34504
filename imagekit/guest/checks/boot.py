"""Whether the image boots at all in each mode, and whether pygrub reads what GRUB reads."""

from __future__ import annotations

from collections.abc import Iterator

from imagekit.errors import ImageError
from imagekit.guest.bootscan import pygrub_result
from imagekit.guest.findings import Finding, Severity, Subject
from imagekit.guest.kernels import GuestKernel
from imagekit.kernel.bootconfig import PygrubChoice
from imagekit.kernel.reading import differences as config_differences

_MAX_PER_CONFIG = 10


def find(subject: Subject) -> Iterator[Finding]:
    """Boot paths of every mode, kernel compression, and the boot configurations."""
    inspection = subject.inspection
    working = {
        mode: [path for path, v in inspection.boot_paths[mode].items() if v.works]
        for mode in subject.modes
    }
    for mode, paths in working.items():
        if not paths:
            yield _no_path(subject, mode, fatal=bool(subject.asked) or not any(working.values()))
    for kernel in inspection.kernels:
        yield from _codec(subject, kernel)
    if {"pv", "pvh"} & set(subject.modes):
        yield from _pygrub(subject)


def _no_path(subject: Subject, mode: str, *, fatal: bool) -> Finding:
    verdicts = subject.inspection.boot_paths[mode]
    fitting = [p for p in verdicts if p.startswith("firmware") == (mode == "hvm") or p == "direct"]
    return Finding(
        "no-boot-path",
        "error" if fatal else "warning",
        mode,
        "; ".join(f"{path}: {verdicts[path].reason}" for path in fitting),
        f"the image does not boot as {mode.upper()} in any way",
        "install a kernel and initrd that can, or choose another mode",
    )


def _codec(subject: Subject, kernel: GuestKernel) -> Iterator[Finding]:
    report = kernel.report
    if report is None:
        yield Finding(
            "kernel-unreadable",
            "warning",
            "all",
            f"{kernel.path}: {kernel.problem}",
            "an entry that starts it does not boot",
            "remove it, or install its package again",
        )
        return
    if report.dom0_loader.can_unpack is False:
        for mode in ("pv", "pvh"):
            if mode in subject.modes and getattr(report, mode).capable:
                yield Finding(
                    "kernel-codec",
                    "error" if mode in subject.asked else "warning",
                    mode,
                    f"{kernel.path} is compressed with {report.compression}",
                    "; ".join(report.dom0_loader.evidence),
                    "install a kernel with another compression, or give dom0 the unpacked ELF",
                )
    if kernel.problem:
        yield Finding(
            "initrd-unreadable",
            "error",
            "all",
            f"{kernel.initrd or kernel.path}: {kernel.problem}",
            "the kernel starts without it and finds no root file system",
            "make it again inside the guest (update-initramfs, dracut)",
        )


def _pygrub(subject: Subject) -> Iterator[Finding]:
    scans = subject.inspection.scans
    severity: Severity = "warning"
    result = pygrub_result(scans)
    if isinstance(result, str):
        yield Finding(
            "pygrub",
            severity,
            "pv",
            result,
            "xl create with bootloader=pygrub fails; so does PVH with it",
            "an ext4 /boot on a partition with a grub.cfg of literal entries, or boot it directly",
        )
    for found in scans:
        config = found.grub_config
        if config is None or found.pygrub_obstacle is not None:
            continue
        try:
            differences = config_differences(found.texts[config], source=config)
        except ImageError:
            continue
        for item in differences[:_MAX_PER_CONFIG]:
            yield Finding(
                f"pygrub-{item.code}",
                "warning",
                "pv",
                f"{config}:{item.line}: {item.what}",
                "pygrub boots something else than GRUB, or nothing"
                if item.severity == "error"
                else "pygrub reads this line otherwise than GRUB",
                item.hint or "write entries with literal paths",
            )
        grub = found.grub.chosen if found.grub else None
        choice = found.pygrub
        if isinstance(choice, PygrubChoice) and grub and grub.kernel != choice.kernel:
            yield Finding(
                "pygrub-other-default",
                "warning",
                "pv",
                f"pygrub's default is {choice.kernel}, GRUB's {grub.kernel}",
                "PV and PVH guests start another kernel than HVM guests",
                'set default="0" in grub.cfg and order the entries',
            )
