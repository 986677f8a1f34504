"""Carrying out changes on a mounted guest."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from imagekit.errors import GuestError
from imagekit.guest.accounts import find_account, find_owner
from imagekit.guest.changes import Change, Copy, Hostname, Mkdir, Remove, RunScript, SshKey, Write
from imagekit.guest.files import GuestFiles
from imagekit.guest.hostname import set_hostname
from imagekit.guest.mounts import GuestRoot
from imagekit.guest.sshkeys import add_keys

MAX_LOG = 1 << 20
_RUNNABLE = ("x86_64", "i386")
"""What an x86-64 appliance runs."""

# The shell's own exit status would not reach us together with the output.
_WRAPPER = (
    "export SYSTEMD_OFFLINE=1 DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C.UTF-8; cd /; "
    '"$0" >"$1" 2>&1 </dev/null; echo $? >"$2"'
)

Log = Callable[[str, str], None]


def apply(change: Change, files: GuestFiles, root: GuestRoot, log: Log) -> None:
    """Do ``change``; ``log`` receives (name, output) of programs run. Raises GuestError."""
    match change:
        case Copy():
            copy(change, files)
        case Write():
            owner = find_owner(files, change.owner) if change.owner else None
            files.write(change.target, change.content, mode=change.mode, owner=owner)
        case Mkdir():
            _mkdir(change, files)
        case Remove():
            files.remove(change.target)
        case Hostname():
            set_hostname(files, change.name)
        case SshKey():
            _authorize(change, files)
        case RunScript():
            run_script(change, files, root, log)


def copy(change: Copy, files: GuestFiles) -> None:
    """Copy a file or tree of the host into the guest. Raises GuestError."""
    owner = find_owner(files, change.owner)
    if not change.source.is_dir():
        mode = change.mode
        if mode is None:
            mode = change.source.stat().st_mode & 0o777
        files.write(change.target, change.source, mode=mode, owner=owner)
        return
    files.make_directory(change.target)
    for directory, names, leaves in os.walk(change.source):
        here = Path(directory)
        inside = "/".join([change.target.rstrip("/"), *here.relative_to(change.source).parts])
        for name in sorted(names + leaves):
            _copy_entry(here / name, f"{inside}/{name}", owner, files)


def _copy_entry(source: Path, target: str, owner: tuple[int, int], files: GuestFiles) -> None:
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        files.link(target, str(source.readlink()))
    elif stat.S_ISDIR(status.st_mode):
        if files.stat(target) is None:
            made = files.make_directory(target)
            files.appliance.call("chown", *owner, made)
            files.appliance.call("chmod", status.st_mode & 0o777, made)
    elif stat.S_ISREG(status.st_mode):
        files.write(target, source, mode=status.st_mode & 0o777, owner=owner)
    else:
        raise GuestError("is a device, pipe or socket; only files are copied", where=str(source))


def _mkdir(change: Mkdir, files: GuestFiles) -> None:
    made = files.make_directory(change.target)
    if made == "/":
        raise GuestError("is the root of the guest", where=change.target)
    files.appliance.call("chown", *find_owner(files, change.owner), made)
    files.appliance.call("chmod", change.mode, made)


def _authorize(change: SshKey, files: GuestFiles) -> None:
    account = find_account(files, change.user)
    home = files.stat(account.home) if account.home.startswith("/") else None
    if home is None or not home.is_directory:
        raise GuestError(
            f"the home {account.home or '(none)'} of {account.name} is not there",
            hint=f"make it first: --mkdir {account.home}:0750:{account.name}",
        )
    directory = f"{account.home.rstrip('/')}/.ssh"
    path = f"{directory}/authorized_keys"
    for name in (directory, path):
        status = files.lstat(name)
        # The account itself may have planted it, to make root write elsewhere.
        if status is not None and status.is_link:
            raise GuestError("is a symbolic link; keys are not written through it", where=name)
    owner = (account.uid, account.gid)
    real = files.make_directory(directory)
    files.appliance.call("chown", *owner, real)
    files.appliance.call("chmod", 0o700, real)
    text = add_keys(files.text(path) or "", change.keys)
    files.write(path, text.encode("utf-8", "surrogateescape"), mode=0o600, owner=owner)


def run_script(change: RunScript, files: GuestFiles, root: GuestRoot, log: Log) -> str:
    """Run a program in the guest as root and return what it printed, the last MiB of it.

    Raises GuestError when the guest's processor is not ours, when it exits nonzero and when it
    exceeds its timeout.
    """
    if root.arch not in _RUNNABLE and root.arch != "unknown":
        raise GuestError(
            f"{change.name} cannot run: the guest is for {root.arch}, this host is x86-64"
        )
    scratch = f"/.imagekit-{secrets.token_hex(6)}"
    call = files.appliance.call
    call("mkdir", scratch)
    call("chmod", 0o700, scratch)
    # Its own name is kept, for programs that look at $0.
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", change.name).lstrip(".-") or "script"
    names = [f"{scratch}/{name}" for name in (safe, ".output", ".status")]
    files.write(names[0], change.content, mode=0o700)
    try:
        call("command", ["/bin/sh", "-c", _WRAPPER, *names], timeout=change.timeout)
        output = _tail(files, names[1])
        status = (files.text(names[2], 64) or "?").strip()
    except GuestError as error:
        raise GuestError(f"{change.name} did not run in the guest: {error.what}") from error
    call("rm_rf", scratch)
    log(change.name, output)
    if status != "0":
        lines = "\n".join(f"  | {line}" for line in output.splitlines()[-15:])
        raise GuestError(f"{change.name} failed in the guest (exit {status})\n{lines}".rstrip())
    return output


def _tail(files: GuestFiles, path: str) -> str:
    status = files.lstat(path)
    if status is None or not status.is_file:
        return ""
    start = max(0, status.size - MAX_LOG)
    data = bytes(files.appliance.call("pread", path, min(status.size, MAX_LOG), start))
    return data.decode("utf-8", "backslashreplace")
