"""The changes a spec asks for, whatever the guest is installed by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagekit.errors import SpecError
from imagekit.guest.changes import AddUser, Change, Copy, RunScript, SetHash, SshKey, Write
from imagekit.guest.sshkeys import PublicKey, parse_key
from imagekit.pipeline.stage import digest_file
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Identity, User

SCRIPT_TIMEOUT = 1800.0
"""Seconds for each script of a spec."""


_RELATIVE = "relative paths start from the directory of the spec"


def require_sources(file: SpecFile) -> None:
    """Raise SpecError for files and scripts of the spec that are not there."""
    for index, item in enumerate(file.spec.files):
        if item.source is not None and not file.resolve(item.source).is_file():
            raise SpecError(
                f"there is no file {file.resolve(item.source)}",
                where=file.where("files", index, "source"),
                hint=_RELATIVE,
            )
    for index, script in enumerate(file.spec.scripts):
        if not file.resolve(script).is_file():
            raise SpecError(
                f"there is no script {file.resolve(script)}",
                where=file.where("scripts", index),
                hint=_RELATIVE,
            )


def script_changes(file: SpecFile, epoch: int | None) -> list[RunScript]:
    """The scripts in their order; ``epoch`` is what they are told as SOURCE_DATE_EPOCH."""
    known = () if epoch is None else (("SOURCE_DATE_EPOCH", str(epoch)),)
    paths = [file.resolve(script) for script in file.spec.scripts]
    return [RunScript(path.name, path, SCRIPT_TIMEOUT, known) for path in paths]


def account_changes(identity: Identity, hashes: Mapping[str, str]) -> list[Change]:
    """Root and the users with their keys; ``hashes`` are crypt hashes by account name."""
    changes: list[Change] = []
    if "root" in hashes:
        changes.append(SetHash("root", hashes["root"]))
    if identity.ssh_keys:
        changes.append(SshKey("root", _keys(identity.ssh_keys)))
    for user in identity.users:
        changes += _user_changes(user, hashes.get(user.name))
    return changes


def file_changes(file: SpecFile) -> list[Change]:
    """The files in their order."""
    changes: list[Change] = []
    for item in file.spec.files:
        mode = int(item.mode, 8)
        if item.source is None:
            content = (item.content or "").encode()
            changes.append(Write(item.target, content, mode, item.owner))
        else:
            changes.append(Copy(file.resolve(item.source), item.target, mode, item.owner))
    return changes


def digest_of_files(file: SpecFile) -> list[list[Any]]:
    """What :func:`file_changes` depends on, for the key of a stage."""
    return [
        [
            *(item.target, item.mode, item.owner, item.content),
            digest_file(file.resolve(item.source)) if item.source else None,
        ]
        for item in file.spec.files
    ]


def digest_of_scripts(file: SpecFile) -> list[str]:
    """What :func:`script_changes` depends on, for the key of a stage."""
    return [digest_file(file.resolve(script)) for script in file.spec.scripts]


def _user_changes(user: User, hash_: str | None) -> list[Change]:
    changes: list[Change] = [AddUser(user.name, user.gecos, user.shell, tuple(user.groups))]
    if hash_:
        changes.append(SetHash(user.name, hash_))
    if user.ssh_keys:
        changes.append(SshKey(user.name, _keys(user.ssh_keys)))
    if user.sudo:
        rule = f"{user.name} ALL=(ALL:ALL) {'ALL' if hash_ else 'NOPASSWD: ALL'}\n"
        changes.append(Write(user.sudoers_path, rule.encode(), 0o440, "root:root"))
    return changes


def _keys(lines: list[str]) -> tuple[PublicKey, ...]:
    """Lines as they are: sshd may know keys that we do not."""
    return tuple(parse_key(line) or PublicKey(line.strip(), line.strip()) for line in lines)
