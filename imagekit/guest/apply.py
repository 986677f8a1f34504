"""Carrying out changes on the files of a guest, in whatever back end they lie."""

from __future__ import annotations

import stat
from collections.abc import Callable

from imagekit.errors import GuestError
from imagekit.guest.accounts import (
    FIRST_UID,
    add_account,
    find_account,
    find_owner,
    join_groups,
    set_hash,
)
from imagekit.guest.changes import (
    AddUser,
    Change,
    Copy,
    ForgetIdentity,
    HostKeysAtBoot,
    Hostname,
    Link,
    Mkdir,
    Remove,
    RunScript,
    SetHash,
    SetNetwork,
    SshKey,
    Write,
)
from imagekit.guest.files import GuestFiles
from imagekit.guest.golden import IDENTITIES, remove_identity
from imagekit.guest.hostcopy import copy
from imagekit.guest.hostkeys import make_at_first_boot
from imagekit.guest.hostname import set_hostname
from imagekit.guest.network.setting import write_networkd
from imagekit.guest.sshkeys import add_keys

SKELETON = "/etc/skel"

Runner = Callable[[RunScript], None]
"""Runs a program where the files are mounted; raises GuestError or ToolError."""


def apply(change: Change, files: GuestFiles, runner: Runner | None = None) -> None:
    """Do ``change``; without ``runner`` no program can be run. Raises GuestError."""
    match change:
        case Copy():
            copy(change, files)
        case Write():
            owner = find_owner(files, change.owner) if change.owner else None
            files.write(change.target, change.content, mode=change.mode, owner=owner)
        case Link():
            files.link(change.path, change.target)
        case Mkdir():
            _mkdir(change, files)
        case Remove():
            files.remove(change.target)
        case ForgetIdentity():
            for identity in IDENTITIES:
                remove_identity(files, identity)
        case Hostname():
            set_hostname(files, change.name)
        case SetNetwork():
            write_networkd(files, change.state)
        case HostKeysAtBoot():
            make_at_first_boot(files)
        case AddUser():
            _add_user(change, files)
        case SetHash():
            set_hash(files, change.user, change.value)
        case SshKey():
            _authorize(change, files)
        case RunScript():
            if runner is None:
                raise GuestError(f"{change.name}: no program can be run here")
            runner(change)


def _mkdir(change: Mkdir, files: GuestFiles) -> None:
    made = files.make_directory(change.target)
    if made == "/":
        raise GuestError("is the root of the guest", where=change.target)
    files.chown(made, find_owner(files, change.owner))
    files.chmod(made, change.mode)


def _add_user(change: AddUser, files: GuestFiles) -> None:
    added = add_account(files, change.name, change.gecos, change.shell)
    join_groups(files, change.name, change.groups)
    account = find_account(files, change.name)
    owner = (account.uid, account.gid)
    made = added or files.stat(account.home) is None
    home = files.make_directory(account.home)
    if home == "/" or (not made and account.uid < FIRST_UID):
        return
    if made and not files.names(home):
        _copy_skeleton(files, home)
    # A script may have put files there before the account was made.
    for path in (home, *files.below(home)) if made else ():
        files.chown(path, owner)
    files.chmod(home, 0o700)


def _copy_skeleton(files: GuestFiles, home: str) -> None:
    """What skel holds; links in it are copied, and not followed."""
    status = files.lstat(SKELETON)
    if status is None or not status.is_directory:
        return
    for path in files.below(SKELETON):
        target = home + path.removeprefix(SKELETON)
        found = files.lstat(path)
        if found is None:
            continue
        bits = stat.S_IMODE(found.mode)
        if found.is_link:
            files.link(target, files.readlink(path))
        elif found.is_directory:
            files.chmod(files.make_directory(target), bits)
        elif found.is_file:
            files.write(target, files.read(path) or b"", mode=bits)


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
    files.chown(real, owner)
    files.chmod(real, 0o700)
    text = add_keys(files.text(path) or "", change.keys)
    files.write(path, text.encode("utf-8", "surrogateescape"), mode=0o600, owner=owner)
