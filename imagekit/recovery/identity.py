"""Growing a clone's partition and file system and giving it its identity, many in one appliance.

Calls: guestfs(3). The last usable sector of a GPT leaves room for the backup header and entries
(UEFI specification 2.10, 5.3.1: 33 sectors); like our layouts, a whole MiB is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import GuestError, SpecError
from imagekit.guest.accounts import find_account
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.apply import apply
from imagekit.guest.changes import SshKey
from imagekit.guest.files import GuestFiles
from imagekit.guest.golden import IDENTITIES, remove_identity
from imagekit.guest.hostname import set_hostname
from imagekit.guest.mounts import GuestRoot
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery.request import GuestRequest

SECTOR = 512
BATCH = 24
"""Disks of one appliance: its memory and start-up time hardly grow with them."""
_NETWORKD = "/etc/systemd/network"


@dataclass(frozen=True)
class Target:
    """A clone to settle: its disk, raw or qcow2, and what the golden image knows of itself."""

    request: GuestRequest
    disk: Path
    format: str
    golden_bytes: int
    size: int
    root_uuid: str | None
    nics: int
    keys: tuple[SshKey, ...] = ()


class ApplianceDied(GuestError):
    """The appliance ended in the middle: nothing it wrote can be relied on."""


def settle(
    targets: Sequence[Target],
    failed: Callable[[Target, GuestError], None],
    *,
    workspace: Workspace,
) -> None:
    """Settle every target in one appliance; ``failed`` is told of those that could not be.

    Raises ApplianceDied when the appliance itself ended: then all of them must be cloned again.
    """
    drives = [Drive(t.disk, t.format, readonly=False) for t in targets]
    with appliance(drives, workspace=workspace) as app:
        devices = [str(device) for device in app.call("list_devices")]
        if len(devices) != len(targets):
            raise GuestError(f"the appliance shows {len(devices)} of {len(targets)} disks")
        for device, target in zip(devices, targets, strict=True):
            workspace.events.emit("note", text=f"{target.request.name}: giving it its identity")
            try:
                _settle_one(app, device, target)
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


def _settle_one(app: Appliance, device: str, target: Target) -> None:
    root = _root_of(app, device, target.root_uuid)
    if target.size > target.golden_bytes:
        _grow_partition(app, device, root)
        _grow_before_mount(app, root)
    app.call("mount", root, "/")
    if target.size > target.golden_bytes:
        _grow_mounted(app, root)
    files = GuestFiles(app)
    for identity in IDENTITIES:
        remove_identity(files, identity)
    set_hostname(files, target.request.hostname or target.request.name)
    _set_network(files, target)
    guest = GuestRoot(root, (("/", root),), True)
    for change in target.keys:
        find_account(files, change.user)
        apply(change, files, guest, lambda _name, _output: None)


def _root_of(app: Appliance, device: str, uuid: str | None) -> str:
    """The device that holds the root file system ``uuid``, or the last partition."""
    parts = [str(p) for p in app.call("list_partitions")]
    own = [p for p in parts if p.startswith(device) and p.removeprefix(device).isdigit()]
    # Ours is the last; each look costs a process in the appliance.
    for candidate in reversed(own or [device]):
        if uuid and str(app.call("vfs_uuid", candidate)).lower() == uuid.lower():
            return candidate
    if uuid:
        raise GuestError(
            f"no partition holds the root file system {uuid}",
            hint="root file systems on LVM cannot be provisioned; build without disk.lvm",
        )
    return own[-1] if own else device


def _grow_partition(app: Appliance, device: str, root: str) -> None:
    if root == device:
        return
    number = int(root.removeprefix(device))
    parts = app.call("part_list", device)
    mine = next(p for p in parts if int(p["part_num"]) == number)
    if any(int(p["part_start"]) > int(mine["part_start"]) for p in parts):
        raise GuestError(
            "the root partition is not the last on the disk, so it cannot grow",
            hint="leave --size away, or build the image larger",
        )
    sectors = int(app.call("blockdev_getsize64", device)) // SECTOR
    end = sectors - 1
    if str(app.call("part_get_parttype", device)) == "gpt":
        app.call("part_expand_gpt", device)
        end = sectors - 2048 - 1
    app.call("part_resize", device, number, end)


def _grow_before_mount(app: Appliance, root: str) -> None:
    kind = str(app.call("vfs_type", root))
    if kind.startswith("ext"):
        app.call("e2fsck", root, correct=True)
        app.call("resize2fs", root)
    elif kind not in ("xfs", "btrfs"):
        raise GuestError(f"a {kind or 'unknown'} file system cannot grow")


def _grow_mounted(app: Appliance, root: str) -> None:
    kind = str(app.call("vfs_type", root))
    if kind == "xfs":
        app.call("xfs_growfs", "/")
    elif kind == "btrfs":
        app.call("btrfs_filesystem_resize", "/")


def network_file(request: GuestRequest, index: int) -> str:
    """systemd.network(5) of one NIC: the addresses asked for on the first, else DHCP."""
    lines = ["[Match]", f"MACAddress={request.mac_of(index)}", "", "[Network]"]
    if index == 0 and request.ip:
        lines += [f"Address={address}" for address in request.ip]
        lines += [f"Gateway={gateway}" for gateway in request.gateway]
        lines += [f"DNS={server}" for server in request.dns]
    else:
        lines += ["DHCP=yes", "", "[DHCPv4]", "ClientIdentifier=mac"]
    return "\n".join(lines) + "\n"


def _set_network(files: GuestFiles, target: Target) -> None:
    there = files.stat(_NETWORKD)
    if there is None or not there.is_directory:
        if target.request.ip:
            raise GuestError(
                "the guest does not use systemd-networkd, so its address cannot be set",
                hint="use --seed with cloud-init in the image, or let DHCP give it",
            )
        return
    for name in files.names(_NETWORKD):
        if name.startswith("10-imagekit-vif"):
            files.remove(f"{_NETWORKD}/{name}")
    for index in range(target.nics):
        text = network_file(target.request, index)
        files.write(f"{_NETWORKD}/10-imagekit-vif{index}.network", text.encode(), mode=0o644)
    if target.request.dns:
        text = "".join(f"nameserver {server}\n" for server in target.request.dns)
        resolved = files.stat("/usr/lib/systemd/systemd-resolved")
        if resolved is None:
            files.remove("/etc/resolv.conf")
            files.write("/etc/resolv.conf", text.encode(), mode=0o644)


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
