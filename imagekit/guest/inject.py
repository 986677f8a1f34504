"""Changing a finished image: all of the changes or none.

A plain ext4 is changed by libext2fs (:mod:`imagekit.guest.quick`), everything else, and scripts, in
an appliance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.guest.appliance import Drive, appliance, sweep_sockets
from imagekit.guest.apply import apply
from imagekit.guest.backends.appliance import ApplianceFiles, run_in_appliance
from imagekit.guest.changes import Change, RunScript
from imagekit.guest.devices import partition_name
from imagekit.guest.files import NeedsAppliance
from imagekit.guest.mounts import mount_guest
from imagekit.guest.quick import quick_root
from imagekit.guest.selinux import RELABELLED, relabel
from imagekit.guest.working import WorkingCopy, working_copy
from imagekit.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Injected:
    """What was done: the root that was changed, one line per change, remarks, script outputs; and
    whether an appliance was needed."""

    root: str
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    by_appliance: bool = False


def inject(
    image: Path,
    image_format: str,
    changes: Sequence[Change],
    *,
    workspace: Workspace,
    partition: int | None = None,
    network: bool = False,
) -> Injected:
    """Apply ``changes`` in order to the operating system in ``image`` (raw, qcow2 or vhd).

    The image is as it was if any of them fails. ``partition`` forces the root (0: the whole disk);
    ``network`` gives scripts a network. With no changes, only a commit that was interrupted is
    finished. Raises GuestError, ImageError, BusyError, HostError, SpecError.
    """
    sweep_sockets()
    with working_copy(image, image_format, workspace=workspace) as copy:
        if not changes:
            return Injected("", (), copy.notes)
        try:
            done = _quickly(copy, changes, partition, workspace)
        except NeedsAppliance as reason:
            workspace.events.emit("appliance", text=f"starting an appliance ({reason})")
            done = _in_appliance(copy, changes, partition, workspace, network=network)
        copy.commit()
    return replace(
        done,
        changes=tuple(str(change) for change in changes),
        notes=(*copy.notes, *done.notes),
    )


def _quickly(
    copy: WorkingCopy, changes: Sequence[Change], partition: int | None, workspace: Workspace
) -> Injected:
    """Change ``copy`` without an appliance; raises NeedsAppliance when that cannot be done."""
    if any(isinstance(change, RunScript) for change in changes):
        raise NeedsAppliance("a program is to be run")
    with quick_root(copy, partition, workspace=workspace) as root:
        for change in changes:
            apply(change, root.files)
        notes = (RELABELLED,) if relabel(root.files) else ()
        root.finish()
    for change in changes:
        workspace.events.emit("change", text=str(change))
    return Injected(partition_name(root.device), (), notes)


def _in_appliance(
    copy: WorkingCopy,
    changes: Sequence[Change],
    partition: int | None,
    workspace: Workspace,
    *,
    network: bool,
) -> Injected:
    outputs: list[tuple[str, str]] = []
    drive = Drive(copy.path, copy.format, readonly=False)
    with appliance([drive], workspace=workspace, network=network) as app:
        root = mount_guest(app, partition, readonly=False)
        files = ApplianceFiles(app)

        def run(script: RunScript) -> None:
            outputs.append((script.name, run_in_appliance(script, files, root.arch)))

        for change in changes:
            workspace.events.emit("change", text=str(change))
            apply(change, files, run)
        notes = (RELABELLED,) if relabel(files) else ()
        app.finish()
    name = partition_name(root.device)
    return Injected(name, (), notes, tuple(outputs), by_appliance=True)
