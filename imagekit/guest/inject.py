"""Changing a finished image: all changes in one appliance, all of them or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.guest.appliance import Drive, appliance, sweep_sockets
from imagekit.guest.apply import apply
from imagekit.guest.backends.appliance import ApplianceFiles, run_in_appliance
from imagekit.guest.changes import Change, RunScript
from imagekit.guest.devices import partition_name
from imagekit.guest.files import GuestFiles
from imagekit.guest.mounts import mount_guest
from imagekit.guest.working import working_copy
from imagekit.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Injected:
    """What was done: the root that was changed, one line per change, remarks, script outputs."""

    root: str
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


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
    outputs: list[tuple[str, str]] = []
    sweep_sockets()
    with working_copy(image, image_format, workspace=workspace) as copy:
        if not changes:
            return Injected("", (), copy.notes)
        drive = Drive(copy.path, copy.format, readonly=False)
        notes = list(copy.notes)
        with appliance([drive], workspace=workspace, network=network) as app:
            root = mount_guest(app, partition, readonly=False)
            files = ApplianceFiles(app)

            def run(script: RunScript) -> None:
                outputs.append((script.name, run_in_appliance(script, files, root.arch)))

            for change in changes:
                workspace.events.emit("change", text=str(change))
                apply(change, files, run)
            if relabel(files):
                notes.append("SELinux labels are renewed at the next boot (/.autorelabel)")
            app.finish()
        copy.commit()
    done = tuple(str(change) for change in changes)
    return Injected(partition_name(root.device), done, tuple(notes), tuple(outputs))


def relabel(files: GuestFiles) -> bool:
    """Ask an SELinux guest to label the new files at its next boot; False for other guests.

    /.autorelabel is what selinux-autorelabel(8) of Fedora and Debian's selinux-basics look for.
    """
    config = files.text("/etc/selinux/config") or ""
    mode = re.findall(r"(?m)^\s*SELINUX\s*=\s*(\w+)", config)
    if not mode or mode[-1].lower() not in ("enforcing", "permissive"):
        return False
    if files.lstat("/.autorelabel") is None:
        files.write("/.autorelabel", b"", mode=0o644)
    return True
