"""Looking at an image: one appliance, read only, nothing of the image parsed by the host's kernel.

Kernels, initrds and boot configurations are copied out within limits and judged by
``imagekit.kernel``.
"""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import GuestError
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.bootpaths import BootFacts, boot_paths
from imagekit.guest.bootscan import BootScan, grub_result, pygrub_result, scan
from imagekit.guest.disks import Disk, read_disk
from imagekit.guest.inspection import Inspection
from imagekit.guest.kernels import GuestKernel, KernelReader
from imagekit.guest.mounts import GuestRoot, mount_guest
from imagekit.guest.osfiles import parse_fstab
from imagekit.guest.osinfo import read_os
from imagekit.guest.working import readable_copy
from imagekit.kernel import reading
from imagekit.pipeline.workspace import Workspace


def inspect(image: Path, image_format: str, *, workspace: Workspace) -> Inspection:
    """Everything about ``image`` (raw, qcow2 or vhd) that matters for booting it under Xen.

    Raises ImageError for a damaged or hostile image, BusyError, HostError, SpecError.
    """
    reading.prepare()
    with readable_copy(image, image_format, workspace=workspace) as copy:
        size = copy.virtual_size
        with appliance([Drive(copy.path, copy.format)], workspace=workspace) as app:
            return survey(app, image_format, size, workspace.temporary("kernels"))


def survey(app: Appliance, image_format: str, virtual_size: int, scratch: Path) -> Inspection:
    """Inspect the disk of ``app``; leaves the guest mounted read only when it has a root.

    ``scratch`` is an empty directory for copies. Raises GuestError, ImageError.
    """
    disk = read_disk(app)
    scans = scan(app, disk)
    warnings: list[str] = []
    root: GuestRoot | None = None
    try:
        root = mount_guest(app, None, readonly=True, disk=disk)
    except GuestError as error:
        warnings.append(error.what)
        root = _mount_boot_only(app, scans)
    files = ApplianceFiles(app)
    if root is None:
        facts = BootFacts(disk, scans, None, None, None)
        paths = boot_paths(facts)
        return Inspection(
            image_format, virtual_size, disk, None, None, None, (), scans, (), paths, (*warnings,)
        )
    warnings += root.warnings
    reader = KernelReader(files, scratch)
    facts, kernels = boot_facts(disk, scans, root, reader)
    fstab = parse_fstab(files.peek("/etc/fstab")) if root.system else ()
    hostname = files.peek("/etc/hostname", 4096).strip().partition("\n")[0] or None
    return Inspection(
        format=image_format,
        virtual_size=virtual_size,
        disk=disk,
        root=root,
        os=read_os(app, files, root),
        hostname=hostname,
        fstab=fstab,
        scans=scans,
        kernels=kernels,
        boot_paths=boot_paths(facts),
        warnings=tuple(warnings),
    )


def boot_facts(
    disk: Disk, scans: tuple[BootScan, ...], root: GuestRoot, reader: KernelReader
) -> tuple[BootFacts, tuple[GuestKernel, ...]]:
    """The kernels of the guest, and which of them each boot program takes."""
    installed = reader.installed()
    pygrub = pygrub_result(scans)
    from_pygrub = None
    if not isinstance(pygrub, str):
        found, choice = pygrub
        from_pygrub = _examine(reader, root, found, choice.kernel, choice.initrd)
    grub = grub_result(scans)
    from_grub = None
    if not isinstance(grub, str):
        found, entry = grub
        if entry.kernel:
            initrd = entry.initrds[-1] if entry.initrds else None
            from_grub = _examine(reader, root, found, entry.kernel, initrd)
    direct = from_pygrub or from_grub or (installed[0] if installed else None)
    known = {kernel.path for kernel in installed}
    extra = [k for k in (from_pygrub, from_grub) if k is not None and k.path not in known]
    listed = {kernel.path: kernel for kernel in [*installed, *extra]}
    return BootFacts(disk, scans, from_pygrub, from_grub, direct), tuple(listed.values())


def _examine(
    reader: KernelReader, root: GuestRoot, found: BootScan, kernel: str, initrd: str | None
) -> GuestKernel | None:
    """A menu's kernel, whose paths count from its own file system's root."""
    points = [point for point, device in root.mounts if device == found.filesystem.device]
    if not points:
        return None
    prefix = points[0].rstrip("/")
    try:
        return reader.examine(prefix + kernel, prefix + initrd if initrd else None)
    except GuestError as error:
        return GuestKernel(prefix + kernel, initrd, None, None, error.what)


def _mount_boot_only(app: Appliance, scans: tuple[BootScan, ...]) -> GuestRoot | None:
    """Without an operating system, mount the file system that a boot program would use."""
    for found in scans:
        if found.texts:
            device = found.filesystem.device
            app.call("mount_ro", device, "/")
            return GuestRoot(device, (("/", device),), system=False)
    return None
