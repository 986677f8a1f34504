"""Finding the root of the operating system in an image and mounting the guest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from imagekit.errors import GuestError, ImageError
from imagekit.guest.appliance import Appliance, CallFailed

DISK = "/dev/sda"
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class GuestRoot:
    """A mounted guest. ``system`` says whether it looks like an operating system.

    ``mounts`` are (mount point, device) in mount order; ``warnings`` what could not be mounted.
    """

    device: str
    mounts: tuple[tuple[str, str], ...]
    system: bool
    arch: str = _UNKNOWN
    warnings: tuple[str, ...] = field(default=())

    def device_of(self, path: str) -> str:
        """The device of the file system that holds the resolved ``path``."""
        best = ("", self.device)
        for point, device in self.mounts:
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) > len(best[0]):
                best = (point, device)
        return best[1]

    def point_of(self, path: str) -> str:
        """The mount point of the file system that holds the resolved ``path``."""
        points = [p for p, _ in self.mounts if path == p or path.startswith(p.rstrip("/") + "/")]
        return max(points, key=len, default="/")


def mount_guest(app: Appliance, partition: int | None, *, readonly: bool) -> GuestRoot:
    """Mount the guest's file systems in ``app`` as its own fstab has them.

    ``partition`` takes that partition of the disk as the root (0: the disk itself is the file
    system). Raises GuestError when there is no root, or several, ImageError when the root's file
    system cannot be mounted.
    """
    roots = [str(r) for r in app.call("inspect_os")]
    root = _forced(app, partition) if partition is not None else _only(app, roots)
    system = root in roots
    points = {"/": root}
    arch = _UNKNOWN
    if system:
        points = {str(k): str(v) for k, v in app.call("inspect_get_mountpoints", root).items()}
        with contextlib.suppress(CallFailed):
            arch = str(app.call("inspect_get_arch", root))
    warnings = []
    mounted = []
    for point, device in sorted(points.items(), key=lambda item: len(item[0])):
        try:
            app.call("mount_ro" if readonly else "mount", device, point)
            mounted.append((point, device))
        except CallFailed as error:
            if point == "/":
                raise ImageError(
                    f"the file system of {partition_name(device)} cannot be mounted: "
                    f"{error.message.splitlines()[0]}",
                    where=partition_name(device),
                ) from error
            if not readonly:
                raise GuestError(
                    f"{point} ({partition_name(device)}) cannot be mounted: {error.message}",
                    hint="--partition N mounts that partition alone",
                ) from error
            warnings.append(f"{point} ({partition_name(device)}) cannot be mounted")
    return GuestRoot(root, tuple(mounted), system, arch, tuple(warnings))


def partition_name(device: str) -> str:
    """What users call an appliance's device: "partition 2", "the disk", "vg0/root"."""
    if device == DISK:
        return "the disk"
    if device.startswith(DISK):
        return f"partition {device.removeprefix(DISK)}"
    return device.removeprefix("/dev/")


def partition_number(device: str) -> int | None:
    """Number of a partition of the disk, 0 for the disk itself, None for anything else."""
    rest = device.removeprefix(DISK)
    if not device.startswith(DISK):
        return None
    if not rest:
        return 0
    return int(rest) if rest.isdigit() else None


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


def _only(app: Appliance, roots: list[str]) -> str:
    if len(roots) == 1:
        return roots[0]
    if roots:
        raise GuestError(
            "the image holds several operating systems: " + ", ".join(map(partition_name, roots)),
            hint="choose one with --partition N",
        )
    kinds = app.call("list_filesystems")
    seen = [f"{partition_name(d)} ({kind})" for d, kind in kinds.items()]
    raise GuestError(
        "no operating system was found in the image; it holds " + (", ".join(seen) or "nothing"),
        hint="--partition N takes a partition as the root; was the --format right?",
    )
