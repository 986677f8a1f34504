"""The report of an inspection, and its JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from imagekit.guest.bootpaths import PathVerdict
from imagekit.guest.bootscan import BootScan, grub_result, pygrub_result
from imagekit.guest.devices import partition_name
from imagekit.guest.disks import Disk
from imagekit.guest.kernels import GuestKernel
from imagekit.guest.mounts import GuestRoot
from imagekit.guest.osfiles import FstabLine
from imagekit.guest.osinfo import OsInfo
from imagekit.kernel.bootconfig import BootEntry


@dataclass(frozen=True)
class DefaultEntry:
    """What a boot program starts by default: paths on the file system that holds ``config``."""

    title: str
    kernel: str
    initrd: str | None
    args: str
    config: str
    filesystem: str

    def to_json(self) -> dict[str, Any]:
        """JSON object with the fields by their names."""
        return asdict(self)


@dataclass(frozen=True)
class Inspection:
    """Everything known about an image. ``default_entry`` is what pygrub boots, None when it boots
    nothing; ``grub_default`` what GRUB itself boots. ``virtual_size`` is in bytes."""

    format: str
    virtual_size: int
    disk: Disk
    root: GuestRoot | None
    os: OsInfo | None
    hostname: str | None
    fstab: tuple[FstabLine, ...]
    scans: tuple[BootScan, ...]
    kernels: tuple[GuestKernel, ...]
    boot_paths: dict[str, dict[str, PathVerdict]]
    warnings: tuple[str, ...]

    @property
    def default_entry(self) -> DefaultEntry | None:
        """What pygrub boots, None when it boots nothing."""
        result = pygrub_result(self.scans)
        if isinstance(result, str):
            return None
        found, choice = result
        return DefaultEntry(
            choice.title, choice.kernel, choice.initrd, choice.args, choice.config, found.name
        )

    @property
    def grub_default(self) -> DefaultEntry | None:
        """What GRUB itself boots, None when it boots nothing."""
        result = grub_result(self.scans)
        if isinstance(result, str):
            return None
        found, entry = result
        initrd = entry.initrds[-1] if entry.initrds else None
        return DefaultEntry(
            entry.title, entry.kernel or "", initrd, entry.args, found.grub_config or "", found.name
        )

    @property
    def boot_entries(self) -> tuple[BootEntry, ...]:
        """Entries of the menu that pygrub reads, else of the one that GRUB reads."""
        result = pygrub_result(self.scans)
        if not isinstance(result, str):
            return result[1].menu.entries
        for found in self.scans:
            if found.grub is not None and found.grub.entries:
                return found.grub.entries
        return ()

    def to_json(self) -> dict[str, Any]:
        """JSON object: format, virtual_size, partition_table, partitions, filesystems, lvm, os,
        hostname, fstab, boot_entries, default_entry, grub_default, kernels, boot_paths, warnings.
        """
        default, grub = self.default_entry, self.grub_default
        mounts = dict((device, point) for point, device in self.root.mounts) if self.root else {}
        disk = self.disk.to_json()
        for filesystem in disk["filesystems"]:
            filesystem["mountpoint"] = mounts.get(filesystem["device"])
            filesystem["device"] = partition_name(filesystem["device"])
        return {
            "format": self.format,
            "virtual_size": self.virtual_size,
            **disk,
            "root": partition_name(self.root.device) if self.root else None,
            "os": self.os.to_json() if self.os else None,
            "hostname": self.hostname,
            "fstab": [asdict(line) for line in self.fstab],
            "boot_entries": [_entry_json(entry) for entry in self.boot_entries],
            "default_entry": default.to_json() if default else None,
            "grub_default": grub.to_json() if grub else None,
            "kernels": [kernel.to_json() for kernel in self.kernels],
            "boot_paths": {
                mode: {name: asdict(verdict) for name, verdict in paths.items()}
                for mode, paths in self.boot_paths.items()
            },
            "warnings": list(self.warnings),
        }


def _entry_json(entry: BootEntry) -> dict[str, Any]:
    initrd = entry.initrds[-1] if entry.initrds else None
    return {"title": entry.title, "kernel": entry.kernel, "initrd": initrd, "args": entry.args}
