"""Disks named by what one machine called them: fstab(5) and root= on the kernel's command line.

The same disk is xvda under Xen, sda or hda on emulated hardware, vda under KVM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from imagekit.guest.bootscan import GRUB_CONFIGS
from imagekit.guest.disks import Disk, FileSystem
from imagekit.guest.findings import Finding, Subject
from imagekit.guest.osfiles import FstabLine

_DEVICE = re.compile(
    r"/dev/(?:(?P<kind>xvd|sd|hd|vd)a(?P<part>\d{0,3})|nvme0n1(?:p(?P<nvme>\d+))?)"
)
_OTHER = re.compile(r"/dev/(?:(?:xvd|sd|hd|vd)[b-z]\d*|nvme[1-9]n\d+(?:p\d+)?)")
_ROOT = re.compile(r"(?<!\S)root=(/dev/\S+)")
_KERNEL_LINE = re.compile(r"^\s*(?:linux|linux16|linuxefi|kernel)\s")
_OPTIONAL = ("swap", "iso9660", "udf", "auto")


def find(subject: Subject) -> Iterator[Finding]:
    """fstab lines and default entries that name a device, or a UUID that is not there."""
    disk = subject.inspection.disk
    for line in subject.inspection.fstab:
        if named_partition(line.device) is not None or _OTHER.fullmatch(line.device):
            yield _by_device(line, disk)
        yield from _missing(line, disk)
    entry = subject.inspection.default_entry or subject.inspection.grub_default
    match = _ROOT.search(entry.args) if entry else None
    if entry and match and _is_device(match[1]):
        xen = match[1].startswith("/dev/xvd")
        yield Finding(
            "root-by-device",
            "warning" if xen else "error",
            "all",
            f"{entry.config}: {match[0]} in the default entry",
            f"the guest finds its root only while the toolstack calls the disk {match[1][5:]}"
            if xen
            else f"under Xen the disk is xvda: the kernel waits for {match[1]} and panics",
            "root=UUID=...",
            _target(match[1], disk) is not None and entry.initrd is not None,
        )


def fix_fstab(subject: Subject) -> None:
    """Name file systems by UUID; lines whose file system is not on this disk stay."""
    text = subject.files.text("/etc/fstab")
    if text is None:
        return
    lines = text.splitlines(keepends=True)
    for line in subject.inspection.fstab:
        target = _target(line.device, subject.inspection.disk)
        if target is not None:
            old = lines[line.number - 1]
            lines[line.number - 1] = old.replace(line.device, f"UUID={target.uuid}", 1)
    subject.files.write_text("/etc/fstab", "".join(lines))


def fix_root(subject: Subject) -> None:
    """root=UUID= in every kernel line that names a device of this disk and has an initrd."""
    edit_kernel_lines(subject, lambda line: _ROOT.sub(lambda m: _as_uuid(m, subject), line))


def edit_kernel_lines(subject: Subject, edit: Callable[[str], str]) -> None:
    """Apply ``edit`` to the kernel lines of the guest's GRUB menus."""
    for path in (*GRUB_CONFIGS, "/boot/grub/menu.lst", "/boot/grub/grub.conf"):
        text = subject.files.text(path)
        if text is None:
            continue
        lines = text.splitlines(keepends=True)
        edited = "".join(edit(line) if _KERNEL_LINE.match(line) else line for line in lines)
        if edited != text:
            subject.files.write_text(subject.files.resolve(path), edited)


def named_partition(device: str) -> int | None:
    """Partition number that a name of the first disk means, 0 for the disk; None for others."""
    match = _DEVICE.fullmatch(device)
    if match is None:
        return None
    return int(match["part"] or match["nvme"] or 0)


FIXES = {"fstab-by-device": fix_fstab, "root-by-device": fix_root}


def _is_device(name: str) -> bool:
    return named_partition(name) is not None or _OTHER.fullmatch(name) is not None


def _by_device(line: FstabLine, disk: Disk) -> Finding:
    xen = line.device.startswith("/dev/xvd")
    needed = line.type not in _OPTIONAL and not {"nofail", "noauto"} & set(line.options.split(","))
    return Finding(
        "fstab-by-device",
        "error" if needed and not xen else "warning",
        "all",
        f"/etc/fstab:{line.number}: {line.mountpoint} is mounted from {line.device}",
        f"works only while the toolstack calls the disk {line.device[5:].rstrip('0123456789')}"
        if xen
        else "under Xen the disk is xvda: the boot waits for it and stops in emergency mode",
        "name it by UUID",
        _target(line.device, disk) is not None,
    )


def _missing(line: FstabLine, disk: Disk) -> Iterator[Finding]:
    kind, equals, value = line.device.partition("=")
    value = value.strip("\"'")
    if not equals or kind not in ("UUID", "LABEL") or "noauto" in line.options.split(","):
        return
    known = {f.uuid if kind == "UUID" else f.label for f in disk.filesystems}
    if value not in known and value.lower() not in {str(k).lower() for k in known}:
        optional = "nofail" in line.options.split(",") or line.type == "swap"
        yield Finding(
            "fstab-missing",
            "warning" if optional else "error",
            "all",
            f"/etc/fstab:{line.number}: {line.mountpoint} wants {line.device}, not in this image",
            "unless another disk brings it, the boot waits 90 s for it"
            + ("" if optional else " and stops in emergency mode"),
            "remove the line or name what is there",
        )


def _target(device: str, disk: Disk) -> FileSystem | None:
    number = named_partition(device)
    if number is None:
        return None
    return next((f for f in disk.filesystems if f.partition == number and f.uuid), None)


def _as_uuid(match: re.Match[str], subject: Subject) -> str:
    target = _target(match[1], subject.inspection.disk)
    return f"root=UUID={target.uuid}" if target else match[0]
