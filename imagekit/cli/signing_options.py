"""Options of every command that signs: an ssh key or an OpenPGP key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekit.errors import SpecError
from imagekit.recovery.signing import Sign, sign_gpg, sign_ssh

SshKeyOption = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this ssh key.")
]
GpgKeyOption = Annotated[
    str | None, typer.Option("--gpg", metavar="KEYID", help="Sign with this OpenPGP key.")
]


def signer(ssh_key: Path | None, gpg_key: str | None, namespace: str) -> Sign | None:
    """What signs, if anything was asked for; ``namespace`` is that of ssh-keygen -Y."""
    if ssh_key is not None and gpg_key is not None:
        raise SpecError("sign with one key", where="--sign, --gpg")
    if ssh_key is not None:
        return lambda data, scratch: sign_ssh(data, ssh_key, scratch, namespace)
    if gpg_key is not None:
        return lambda data, scratch: sign_gpg(data, gpg_key, scratch)
    return None
