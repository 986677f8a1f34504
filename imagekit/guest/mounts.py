"""Finding the root of the operating system in an image and mounting the guest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from imagekit.errors import GuestError, ImageError
from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.devices import DISK, partition_name, partition_number
from imagekit.guest.disks import NESTED, Disk, read_disk
from imagekit.guest.osfiles import looks_like_system, parse_fstab

ROOT_TYPES = ("ext2", "ext3", "ext4", "xfs", "f2fs", "jfs", "reiserfs")
MAX_MOUNTS = 16
_UNKNOWN = "unknown"
_PROGRAMS = ("/bin/sh", "/usr/bin/sh", "/bin/bash", "/bin/ls")


@dataclass(frozen=True)
class GuestRoot:
    """A mounted guest. ``system`` says whether it looks like an operating system, ``inspected``
    whether libguestfs was asked about it.

    ``mounts`` are (mount point, device) in mount order; ``warnings`` what could not be mounted.
    """

    device: str
    mounts: tuple[tuple[str, str], ...]
    system: bool
    arch: str = _UNKNOWN
    warnings: tuple[str, ...] = field(default=())
    inspected: bool = False


@dataclass(frozen=True)
class _Plan:
    """What is to be mounted where; ``arch`` None is still to be found out."""

    root: str
    points: dict[str, str]
    system: bool
    inspected: bool


def mount_guest(
    app: Appliance, partition: int | None, *, readonly: bool, disk: Disk | None = None
) -> GuestRoot:
    """Mount the guest's file systems in ``app`` as its own fstab has them.

    ``partition`` takes that partition of the disk as the root (0: the disk itself is the file
    system). ``disk`` is what :func:`read_disk` said, when it was asked before. Raises GuestError
    when there is no root, or several, ImageError when the root's file system cannot be mounted.
    """
    plan = _plan(app, disk or read_disk(app), partition)
    warnings = []
    mounted = []
    for point, device in sorted(plan.points.items(), key=lambda item: len(item[0])):
        try:
            app.call("mount_ro" if readonly else "mount", device, point)
            mounted.append((point, device))
        except CallFailed as error:
            name = partition_name(device)
            if point == "/":
                reason = error.message.splitlines()[0]
                raise ImageError(
                    f"the file system of {name} cannot be mounted: {reason}", where=name
                ) from error
            if not readonly:
                raise GuestError(
                    f"{point} ({name}) cannot be mounted: {error.message}",
                    hint="--partition N mounts that partition alone",
                ) from error
            warnings.append(f"{point} ({name}) cannot be mounted")
    arch = _arch(app) if plan.system else _UNKNOWN
    return GuestRoot(plan.root, tuple(mounted), plan.system, arch, tuple(warnings), plan.inspected)


def _plan(app: Appliance, disk: Disk, partition: int | None) -> _Plan:
    """By our own look where the disk is simple, else by libguestfs's inspection (4 s and more)."""
    wanted = None if partition is None else _forced(app, partition)
    simple = not any(f.type in (*NESTED, "ntfs") for f in disk.filesystems)
    if simple:
        systems = _systems(app, disk)
        if wanted in systems:
            return _Plan(wanted, systems[wanted], system=True, inspected=False)
        if wanted is None and len(systems) == 1:
            root, points = next(iter(systems.items()))
            return _Plan(root, points, system=True, inspected=False)
    roots = [str(root) for root in app.call("inspect_os")]
    chosen = wanted or _only(disk, roots)
    if chosen not in roots:
        return _Plan(chosen, {"/": chosen}, system=False, inspected=True)
    points = app.call("inspect_get_mountpoints", chosen)
    mounts = {str(k): str(v) for k, v in points.items()}
    return _Plan(chosen, mounts, system=True, inspected=True)


def _systems(app: Appliance, disk: Disk) -> dict[str, dict[str, str]]:
    """Devices that hold a Linux with os-release(5), each with its mount points."""
    found: dict[str, dict[str, str]] = {}
    for filesystem in [f for f in disk.filesystems if f.type in ROOT_TYPES][:MAX_MOUNTS]:
        try:
            app.call("mount_ro", filesystem.device, "/")
        except CallFailed:
            continue
        try:
            files = ApplianceFiles(app)
            if looks_like_system(files):
                points = _fstab_points(disk, files.peek("/etc/fstab"))
                found[filesystem.device] = {**points, "/": filesystem.device}
        finally:
            app.call("umount_all")
    return found


def _fstab_points(disk: Disk, text: str) -> dict[str, str]:
    """Mount points of an fstab whose file system is on this disk."""
    names: dict[str, str] = {}
    for filesystem in disk.filesystems:
        for key, value in (("UUID", filesystem.uuid), ("LABEL", filesystem.label)):
            if value:
                names.setdefault(f"{key}={value}".lower(), filesystem.device)
        for name in (filesystem.device, _mapped(filesystem.device)):
            names[name.lower()] = filesystem.device
    for entry in disk.partitions:
        if entry.part_uuid:
            names[f"partuuid={entry.part_uuid}".lower()] = f"{DISK}{entry.number}"
    points: dict[str, str] = {}
    for line in parse_fstab(text):
        plain = line.device.replace('"', "").lower()
        for prefix in ("/dev/xvda", "/dev/vda", "/dev/hda", "/dev/nvme0n1p"):
            if plain.startswith(prefix):
                plain = DISK + plain.removeprefix(prefix)
        device = names.get(plain)
        absolute = line.mountpoint.startswith("/") and ".." not in line.mountpoint.split("/")
        if device and absolute and len(points) < MAX_MOUNTS and line.type != "swap":
            points.setdefault(line.mountpoint.rstrip("/") or "/", device)
    return points


def _mapped(device: str) -> str:
    """The other name of a logical volume, by which fstab has it mostly: hyphens of group and volume
    are twice in it (lib/misc/lvm-string.c of LVM2, dm_build_dm_name)."""
    group, slash, volume = device.removeprefix("/dev/").partition("/")
    if not slash:
        return device
    return f"/dev/mapper/{group.replace('-', '--')}-{volume.replace('-', '--')}"


def _arch(app: Appliance) -> str:
    for program in _PROGRAMS:
        with contextlib.suppress(CallFailed):
            return str(app.call("file_architecture", program))
    return _UNKNOWN


def _forced(app: Appliance, partition: int) -> str:
    if partition == 0:
        return DISK
    devices = [str(d) for d in app.call("list_partitions")]
    wanted = f"{DISK}{partition}"
    if wanted not in devices:
        numbers = [str(n) for d in devices if (n := partition_number(d))]
        raise GuestError(
            f"the image has no partition {partition}",
            hint=f"it has {', '.join(numbers)}"
            if numbers
            else "it has no partition table; --partition 0 takes the disk itself",
        )
    return wanted


def _only(disk: Disk, roots: list[str]) -> str:
    if len(roots) == 1:
        return roots[0]
    if roots:
        raise GuestError(
            "the image holds several operating systems: " + ", ".join(map(partition_name, roots)),
            hint="choose one with --partition N",
        )
    seen = [f"{partition_name(f.device)} ({f.type})" for f in disk.filesystems]
    raise GuestError(
        "no operating system was found in the image; it holds " + (", ".join(seen) or "nothing"),
        hint="--partition N takes a partition as the root; was the --format right?",
    )
