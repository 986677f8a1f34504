"""Boot configurations of every file system, as pygrub and as GRUB itself read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imagekit.errors import GuestError, ImageError
from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.devices import partition_name
from imagekit.guest.disks import Disk, FileSystem
from imagekit.guest.files import GuestFiles
from imagekit.kernel.bootconfig import (
    CONFIG_PATHS,
    BootEntry,
    BootMenu,
    PygrubChoice,
    PygrubRefusal,
)
from imagekit.kernel.bootmenu import MAX_CONFIG
from imagekit.kernel.reading import Menus, menus

MAX_SCANNED = 16
GRUB_CONFIGS = (
    "/boot/grub/grub.cfg",
    "/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/grub2/grub.cfg",
)
PVGRUB_CONFIGS = GRUB_CONFIGS[:2]
"""What Debian's grub-xen images look for (grub-xen-host, debian/grub-xen-host_grub.cfg)."""

_MOUNTABLE = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "iso9660", "f2fs", "jfs")
_PYGRUB = ("ext2", "ext3", "ext4", "vfat", "iso9660")
"""File systems the plugins of xenfsimage read; its XFS plugin knows version 4 alone."""


@dataclass(frozen=True)
class BootScan:
    """One file system's boot configurations.

    ``pygrub_obstacle`` says why pygrub does not get to read it, None when it does. ``pygrub`` is
    what it then boots; ``missing`` the files of that choice that are not there. ``grub`` is the
    menu as GRUB reads it from ``grub_config``. ``efi_loader`` is the removable-media boot program.
    """

    filesystem: FileSystem
    pygrub_obstacle: str | None
    pygrub: PygrubChoice | PygrubRefusal
    missing: tuple[str, ...] = ()
    grub: BootMenu | None = None
    grub_config: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    efi_loader: str | None = None

    @property
    def name(self) -> str:
        """What the file system is called in messages: its partition or volume."""
        return partition_name(self.filesystem.device)


def scan(app: Appliance, disk: Disk) -> tuple[BootScan, ...]:
    """Mount each file system alone, read only, and look for boot configurations on it."""
    scans: list[BootScan] = []
    candidates = [f for f in disk.filesystems if f.type in _MOUNTABLE]
    for filesystem in sorted(candidates, key=lambda f: (f.partition is None, f.partition or 0)):
        if len(scans) >= MAX_SCANNED:
            break
        try:
            app.call("mount_ro", filesystem.device, "/")
        except CallFailed as error:
            reason = f"cannot be mounted: {error.message.splitlines()[0]}"
            scans.append(BootScan(filesystem, reason, PygrubRefusal(reason)))
            continue
        try:
            scans.append(_scan_one(app, disk, filesystem))
        finally:
            app.call("umount_all")
    return tuple(scans)


def pygrub_result(
    scans: tuple[BootScan, ...],
) -> tuple[BootScan, PygrubChoice] | str:
    """What pygrub boots from the disk, or why nothing: the first file system with an entry counts,
    also when its kernel is missing (Xen tools/pygrub/src/pygrub, loop over part_offs)."""
    reasons = []
    for found in scans:
        if found.pygrub_obstacle is not None:
            if found.texts:
                reasons.append(f"{found.name}: {found.pygrub_obstacle}")
        elif isinstance(found.pygrub, PygrubRefusal):
            if found.pygrub.config is not None:
                reasons.append(found.pygrub.reason)
        elif found.missing:
            return f"{found.pygrub.config} names files that are not there: " + ", ".join(
                found.missing
            )
        else:
            return found, found.pygrub
    return "; ".join(reasons) or "no boot configuration that pygrub reads is in the image"


def grub_result(scans: tuple[BootScan, ...]) -> tuple[BootScan, BootEntry] | str:
    """What GRUB boots by default, from the first file system with a grub.cfg that has entries."""
    reason = "no grub.cfg is in the image"
    for found in scans:
        if found.grub is not None and found.grub.chosen is not None:
            return found, found.grub.chosen
        if found.grub_config is not None:
            reason = f"{found.grub_config} has no menu entry that names a kernel"
            if "blscfg" in found.texts.get(found.grub_config, ""):
                reason += "; its entries are BLS files, which need Fedora's GRUB"
    return reason


def _scan_one(app: Appliance, disk: Disk, filesystem: FileSystem) -> BootScan:
    files = ApplianceFiles(app)
    texts: dict[str, str] = {}
    for path in CONFIG_PATHS:
        data = files.head(path, MAX_CONFIG)
        if data is not None:
            texts[path] = data.decode("utf-8", "surrogateescape")
    config = next((path for path in GRUB_CONFIGS if path in texts), None)
    read = _menus(files, filesystem, texts, config)
    choice = read.pygrub
    missing: tuple[str, ...] = ()
    if isinstance(choice, PygrubChoice):
        wanted = [choice.kernel, *([choice.initrd] if choice.initrd else [])]
        missing = tuple(path for path in wanted if not _is_file(files, path))
    return BootScan(
        filesystem,
        _obstacle(app, disk, filesystem),
        choice,
        missing,
        read.grub,
        config,
        texts,
        _efi_loader(files) if filesystem.type == "vfat" else None,
    )


def _menus(
    files: GuestFiles, filesystem: FileSystem, texts: Mapping[str, str], config: str | None
) -> Menus:
    """The menus; those that cannot be read at all, because of their makers, boot nothing."""
    environment = _environment(files, config) if config else ""
    where = partition_name(filesystem.device)
    try:
        return menus(texts, grub_config=config, grubenv=environment, where=where)
    except ImageError as error:
        return Menus(PygrubRefusal(error.what, next(iter(texts), None)))


def _environment(files: GuestFiles, config: str) -> str:
    """GRUB's environment block beside its configuration."""
    block = files.head(config.replace("grub.cfg", "grubenv"), 4096) or b""
    return block.decode("utf-8", "replace")


def _is_file(files: GuestFiles, path: str) -> bool:
    try:
        status = files.stat(path)
    except GuestError:
        return False
    return status is not None and status.is_file


def _obstacle(app: Appliance, disk: Disk, filesystem: FileSystem) -> str | None:
    """Why pygrub does not read this file system; None when it does."""
    number = filesystem.partition
    if number is None:
        return "it is on a logical volume, which pygrub does not open"
    if disk.table == "mbr" and number > 4:
        return f"partition {number} is a logical one, and pygrub reads the primary four"
    if filesystem.type not in _PYGRUB:
        return f"pygrub does not read {filesystem.type}"
    if filesystem.type.startswith("ext"):
        features = str(app.call("tune2fs_l", filesystem.device).get("Filesystem features", ""))
        if "bigalloc" in features.split():
            return "pygrub does not read ext4 with bigalloc"
    return None


def _efi_loader(files: GuestFiles) -> str | None:
    """UEFI 2.10, 3.5.1.1: removable media boot from /EFI/BOOT/BOOTX64.EFI."""
    path = ""
    for wanted in ("efi", "boot", "bootx64.efi"):
        name = next((n for n in files.names(path or "/") if n.lower() == wanted), None)
        if name is None:
            return None
        path = f"{path}/{name}"
    return path
