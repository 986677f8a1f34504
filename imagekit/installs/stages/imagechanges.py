"""What a spec asks for beyond an installer's answers, put into the disk that the installer left.

The order is that of a tree: scripts, then what makes the guest boot, then accounts, files last. So
the same spec gives the same guest, whatever it is installed by.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagekit.errors import GuestError, ImagekitError
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.apply import apply
from imagekit.guest.backends.appliance import ApplianceFiles, run_in_appliance
from imagekit.guest.changes import Change
from imagekit.guest.from_spec import (
    account_changes,
    digest_of_files,
    digest_of_scripts,
    file_changes,
    script_changes,
)
from imagekit.guest.mounts import mount_guest
from imagekit.guest.selinux import relabel
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.overlay import digest_of_secrets
from imagekit.pipeline.stage import StageRun


def changes_key(context: BuildContext) -> Mapping[str, Any]:
    """What the changes depend on, for the key of a stage."""
    file = context.file
    identity = file.spec.identity
    return {
        "scripts": digest_of_scripts(file),
        "files": digest_of_files(file),
        "accounts": [u.model_dump(mode="json") for u in identity.users],
        "keys": identity.ssh_keys,
        "secrets": digest_of_secrets(context.secrets),
    }


def run_scripts(context: BuildContext, disk: Path, run: StageRun) -> None:
    """Run the spec's scripts in the guest on the raw ``disk``, with a network.

    Raises GuestError, saying which script failed and what it said last.
    """
    file = context.file
    scripts = script_changes(file, context.epoch)
    if not scripts:
        return
    drive = Drive(disk, "raw", readonly=False)
    with appliance([drive], workspace=run.workspace, network=True) as app:
        root = mount_guest(app, None, readonly=False)
        files = ApplianceFiles(app)
        for index, script in enumerate(scripts):
            run.progress(index, len(scripts))
            log = run.logs / f"script-{index}-{script.name}.log"
            try:
                run_in_appliance(script, files, root.arch, log)
            except ImagekitError as error:
                error.where = file.where("scripts", index)
                error.hint = error.hint or f"what it printed is in {log}"
                raise
        relabel(files)
        app.finish()


def add_accounts_and_files(context: BuildContext, app: Appliance, run: StageRun) -> None:
    """Put the spec's accounts, keys and files into the guest in ``app``, which is left unmounted.

    Accounts that the installer made are made like the spec says. Raises GuestError.
    """
    file = context.file
    context.hide_secrets(run.workspace.events)
    mount_guest(app, None, readonly=False)
    files = ApplianceFiles(app)
    accounts: list[Change] = account_changes(file.spec.identity, context.secrets)
    for part, changes in (("identity", accounts), ("files", file_changes(file))):
        for change in changes:
            try:
                apply(change, files)
            except GuestError as error:
                error.what = f"{change}: {error.what}"
                error.hint = error.hint or f"see {file.where(part)}"
                raise
    relabel(files)
    app.call("umount_all")
