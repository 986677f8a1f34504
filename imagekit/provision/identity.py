"""Growing a clone's file system and giving it its identity, many in one appliance.

Calls: guestfs(3). Whatever starts a process in the appliance costs tenths of a second where KVM is
missing, so that partitions are grown before (``table``), file systems while they are mounted, and
what is the same in all clones is looked at once.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import GuestError, SpecError
from imagekit.guest.appliance import Appliance, CallFailed, Drive, appliance
from imagekit.guest.apply import apply
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.changes import SshKey
from imagekit.guest.files import MAX_TEXT, GuestFiles, Status
from imagekit.guest.golden import IDENTITIES, remove_identity
from imagekit.guest.hostname import set_hostname
from imagekit.guest.network.setting import set_network
from imagekit.guest.network.state import NetworkState, Vif
from imagekit.pipeline.workspace import Workspace
from imagekit.provision.request import GuestRequest

PIECE = 2 << 20
"""Bytes that one pread of libguestfs returns at most, safely below its message limit of 4 MiB."""
BATCH = 24
"""Disks of one appliance: its memory and start-up time hardly grow with them."""
DEVICES = tuple(f"/dev/sd{letter}" for letter in string.ascii_lowercase[:BATCH])
"""What libguestfs calls disks in the order they were added (guestfs(3), BLOCK DEVICE NAMING).
Asking for the names waits for the appliance's udev to look at every disk."""


@dataclass(frozen=True)
class Target:
    """A clone to settle: its disk, raw or qcow2, and what the golden image knows of itself.

    ``last`` is the number of its last partition, 0 where that is not known. ``grown`` is the number
    of the one that was made larger with the disk, 0 for a disk without a table, None where nothing
    grew.
    """

    request: GuestRequest
    disk: Path
    format: str
    last: int
    grown: int | None
    root_uuid: str | None
    nics: int
    keys: tuple[SshKey, ...] = ()


@dataclass(frozen=True)
class Root:
    """Where the root file system of all clones of one image is: ``partition`` is its number as
    text, empty for a disk without a table; ``volume`` the logical volume, if it lies in one."""

    partition: str
    volume: str | None
    filesystem: str


class ApplianceDied(GuestError):
    """The appliance ended in the middle: nothing it wrote can be relied on."""


class CloneFiles(ApplianceFiles):
    """Files of a clone, with few calls: hundreds of names are looked at, most of them often."""

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        self._known: dict[str, Status | None] = {}

    def lstat(self, path: str) -> Status | None:
        """See :class:`GuestFiles`; remembered until something is written."""
        if path not in self._known:
            self._known[path] = super().lstat(path)
        return self._known[path]

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes | None:
        """See :class:`GuestFiles`; pread(2) costs no process in the appliance, read_file does."""
        status = self.stat(path)
        if status is None or not status.is_file or status.size > PIECE:
            return super().read(path, limit)
        return self.head(path, PIECE)

    def _changed(self) -> None:
        self._known.clear()


def settle(
    targets: Sequence[Target],
    failed: Callable[[Target, GuestError], None],
    *,
    workspace: Workspace,
) -> None:
    """Settle every target in one appliance; ``failed`` is told of those that could not be.

    All are clones of one image. Raises ApplianceDied when the appliance itself ended: then all of
    them must be cloned again.
    """
    drives = [Drive(t.disk, t.format, readonly=False) for t in targets]
    with appliance(drives, workspace=workspace) as app:
        batch = _Batch(app, targets[0])
        for device, target in zip(DEVICES, targets, strict=False):
            workspace.events.emit("note", text=f"{target.request.name}: giving it its identity")
            try:
                _settle_one(batch, device, target)
            except GuestError as error:
                if not _alive(app):
                    died = ApplianceDied(error.what, where=target.request.name)
                    raise died from error
                failed(target, error)
            app.call("umount_all")
        app.finish()


def _alive(app: Appliance) -> bool:
    try:
        app.call("ping_daemon", timeout=30)
    except GuestError:
        return False
    return True


class _Batch:
    """The appliance, and what was found out about the first disk and holds for all of them."""

    def __init__(self, app: Appliance, first: Target) -> None:
        self.app = app
        self._first = first
        self._root: Root | None = None

    def root(self, device: str) -> Root:
        """Where the root is; looked for once, as each look costs a process in the appliance."""
        if self._root is None:
            self._root = self._find(device, self._first.root_uuid)
        elif self._root.volume is not None:
            # Clones hold volume groups of one name: LVM is shown one disk at a time.
            self.app.call("lvm_set_filter", [device])
        return self._root

    def _find(self, device: str, uuid: str | None) -> Root:
        guess = str(self._first.last or "")
        if uuid and guess and self._is(device + guess, uuid):
            return Root(guess, None, str(self.app.call("vfs_type", device + guess)))
        partitions = map(str, self.app.call("list_partitions"))
        own = [p.removeprefix(device) for p in partitions if p.startswith(device)]
        numbers = [n for n in own if n.isdigit()] or [""]
        if uuid is None:
            return Root(numbers[-1], None, str(self.app.call("vfs_type", device + numbers[-1])))
        # Ours is the last.
        for number in reversed(numbers):
            if self._is(device + number, uuid):
                return Root(number, None, str(self.app.call("vfs_type", device + number)))
        self.app.call("lvm_set_filter", [device])
        for volume in map(str, self.app.call("lvs")):
            if self._is(volume, uuid):
                physical = str(self.app.call("pvs")[0])
                kind = str(self.app.call("vfs_type", volume))
                return Root(physical.removeprefix(device), volume, kind)
        raise GuestError(f"no partition or volume holds the root file system {uuid}")

    def _is(self, device: str, uuid: str) -> bool:
        return str(self.app.call("vfs_uuid", device)).lower() == uuid.lower()


def forget_golden(files: GuestFiles) -> None:
    """Take out what would make two clones one machine: its id, host keys, seeds, leases.

    An image that was built has none of it; one that was booted, or comes from elsewhere, may.
    """
    for identity in IDENTITIES:
        if not identity.trace:
            remove_identity(files, identity)


def _settle_one(batch: _Batch, device: str, target: Target) -> None:
    app = batch.app
    root = batch.root(device)
    place = root.volume or device + root.partition
    if target.grown is not None:
        _grow_volume(app, device, root, target.grown)
    app.call("mount", place, "/")
    if target.grown is not None:
        _grow_filesystem(app, place, root.filesystem)
    files = CloneFiles(app)
    forget_golden(files)
    set_hostname(files, target.request.hostname or target.request.name)
    _set_network(files, target)
    for change in target.keys:
        apply(change, files)


def _grow_volume(app: Appliance, device: str, root: Root, grown: int) -> None:
    """Check that what grew is what holds the root, and give the root's volume the new space."""
    if root.partition != (str(grown) if grown else ""):
        raise GuestError(
            "the root partition is not the last on the disk, so it cannot grow",
            hint="leave --size away, or build the image larger",
        )
    if root.volume is not None:
        app.call("pvresize", device + root.partition)
        app.call("lvresize_free", root.volume, 100)


def _grow_filesystem(app: Appliance, place: str, kind: str) -> None:
    """Grow the mounted file system; its kernel refuses to when it knows of errors in it."""
    if kind.startswith("ext"):
        try:
            app.call("resize2fs", place)
        except CallFailed:
            # Not every ext2 can grow while it is mounted.
            app.call("umount_all")
            app.call("e2fsck", place, correct=True)
            app.call("resize2fs", place)
            app.call("mount", place, "/")
    elif kind == "xfs":
        app.call("xfs_growfs", "/")
    elif kind == "btrfs":
        app.call("btrfs_filesystem_resize", "/")
    else:
        raise GuestError(f"a {kind or 'unknown'} file system cannot grow")


def vifs_of(request: GuestRequest, nics: int) -> list[Vif]:
    """The clone's NICs: the addresses asked for on the first, DHCP on the others."""
    vifs = [Vif(request.mac_of(index)) for index in range(nics)]
    first = (tuple(request.ip), tuple(request.gateway), tuple(request.dns))
    return [Vif(vif.mac, *first) for vif in vifs[:1]] + vifs[1:]


def _set_network(files: GuestFiles, target: Target) -> None:
    stack = set_network(files, NetworkState(tuple(vifs_of(target.request, target.nics))))
    if stack is None and target.request.ip:
        raise GuestError(
            "what configures the guest's network is not known, so its address cannot be set",
            hint="use --seed with cloud-init in the image, or let DHCP give it",
        )


def check_size(size: int, golden_bytes: int) -> None:
    """Raise SpecError for a disk smaller than the golden image's, or no whole MiB."""
    if size < golden_bytes:
        raise SpecError(
            f"{size} bytes are less than the golden image's {golden_bytes}",
            where="--size",
            hint="clones grow, they do not shrink",
        )
    if size % (1 << 20):
        raise SpecError("is no whole number of MiB", where="--size")
