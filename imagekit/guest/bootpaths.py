"""Which ways of booting work for an image, for each kind of Xen guest, and why not.

pygrub and direct kernel boot: the domain builder of dom0 loads the kernel (PV, PVH). pvgrub: GRUB
in the guest does (grub-xen-host). Firmware: SeaBIOS or OVMF in an HVM guest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imagekit.guest.bootscan import (
    PVGRUB_CONFIGS,
    BootScan,
    grub_result,
    pygrub_result,
)
from imagekit.guest.disks import Disk, is_esp
from imagekit.guest.kernels import GuestKernel
from imagekit.kernel.capability import modes

PATHS = ("pygrub", "pvgrub", "direct", "firmware_bios", "firmware_uefi")
PV_GRUB_CODECS = (None, "gzip", "xz", "lzo")
"""What GRUB's PV loader unpacks: grub-core/loader/i386/xen_file.c and its io filters."""


@dataclass(frozen=True)
class PathVerdict:
    """Whether one way of booting works; ``reason`` says by what it works, or why it does not."""

    works: bool
    reason: str


@dataclass(frozen=True)
class BootFacts:
    """What the verdicts rest on: the kernels that pygrub, GRUB and we ourselves would take."""

    disk: Disk
    scans: tuple[BootScan, ...]
    pygrub_kernel: GuestKernel | None
    grub_kernel: GuestKernel | None
    direct_kernel: GuestKernel | None


def boot_paths(facts: BootFacts) -> dict[str, dict[str, PathVerdict]]:
    """Verdict for every mode (pv, pvh, hvm) and every path of PATHS."""
    result: dict[str, dict[str, PathVerdict]] = {}
    for mode in ("pv", "pvh", "hvm"):
        judges: dict[str, Callable[[BootFacts, str], PathVerdict]] = {
            "pygrub": _pygrub if mode != "hvm" else _not_for_hvm,
            "pvgrub": _pvgrub if mode != "hvm" else _not_for_hvm,
            "direct": _direct,
            "firmware_bios": _bios if mode == "hvm" else _only_hvm,
            "firmware_uefi": _uefi if mode == "hvm" else _only_hvm,
        }
        result[mode] = {path: judges[path](facts, mode) for path in PATHS}
    return result


def _not_for_hvm(_facts: BootFacts, _mode: str) -> PathVerdict:
    return PathVerdict(False, "an HVM guest boots by firmware or a kernel given to it")


def _only_hvm(_facts: BootFacts, _mode: str) -> PathVerdict:
    return PathVerdict(False, "only HVM guests have firmware")


def _pygrub(facts: BootFacts, mode: str) -> PathVerdict:
    result = pygrub_result(facts.scans)
    if isinstance(result, str):
        return PathVerdict(False, result)
    found, choice = result
    return _with_kernel(facts.pygrub_kernel, mode, f"{choice.config} on {found.name}")


def _pvgrub(facts: BootFacts, mode: str) -> PathVerdict:
    result = grub_result(facts.scans)
    if isinstance(result, str):
        return PathVerdict(False, result)
    found, _entry = result
    if found.grub_config not in PVGRUB_CONFIGS:
        return PathVerdict(
            False, f"pvgrub looks for {' and '.join(PVGRUB_CONFIGS)}, not {found.grub_config}"
        )
    kernel = facts.grub_kernel
    report = kernel.report if kernel else None
    if mode == "pv" and report is not None and report.compression not in PV_GRUB_CODECS:
        return PathVerdict(False, f"GRUB cannot unpack {report.compression} kernels for a PV guest")
    return _with_kernel(kernel, mode, f"{found.grub_config} on {found.name}")


def _direct(facts: BootFacts, mode: str) -> PathVerdict:
    kernel = facts.direct_kernel
    if kernel is None:
        return PathVerdict(False, "no kernel was found in the image")
    if kernel.initrd is None:
        verdict = _with_kernel(kernel, mode, "")
        blkfront = verdict.works and "it needs xen_blkfront and the root's file system built in"
        return PathVerdict(
            verdict.works, f"{kernel.path} without an initrd; {blkfront or verdict.reason}"
        )
    return _with_kernel(kernel, mode, f"with {kernel.initrd}")


def _bios(facts: BootFacts, mode: str) -> PathVerdict:
    if not facts.disk.boot_code:
        return PathVerdict(False, "the first sector holds no boot code")
    result = grub_result(facts.scans)
    if isinstance(result, str):
        return PathVerdict(False, result)
    return _with_kernel(facts.grub_kernel, mode, "boot code in the first sector")


def _uefi(facts: BootFacts, mode: str) -> PathVerdict:
    numbers = {part.number for part in facts.disk.partitions if is_esp(part)}
    if not numbers:
        return PathVerdict(False, "there is no EFI system partition")
    for found in facts.scans:
        if found.filesystem.partition in numbers and found.efi_loader:
            kernel = facts.grub_kernel or facts.direct_kernel
            return _with_kernel(kernel, mode, f"{found.efi_loader} on {found.name}")
    return PathVerdict(False, "the EFI system partition has no /EFI/BOOT/BOOTX64.EFI")


def _with_kernel(kernel: GuestKernel | None, mode: str, how: str) -> PathVerdict:
    if kernel is None:
        return PathVerdict(False, "the default entry's kernel is not there")
    if kernel.report is None:
        return PathVerdict(False, f"{kernel.path}: {kernel.problem}")
    verdict = modes(kernel.report)[mode]
    if not verdict.capable:
        return PathVerdict(False, f"{kernel.path}: " + "; ".join(verdict.evidence))
    if kernel.problem:
        return PathVerdict(False, f"{kernel.path}: {kernel.problem}")
    return PathVerdict(True, f"{kernel.path}, {how}".rstrip(", "))
