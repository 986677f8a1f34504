"""Options of every command that signs, verifies or encrypts: which keys it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagekit.errors import SpecError
from imagekit.host.signing import Sign, sign_gpg, sign_minisign, sign_ssh

SshKeyOption = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this ssh key.")
]
GpgKeyOption = Annotated[
    str | None, typer.Option("--gpg", metavar="KEYID", help="Sign with this OpenPGP key.")
]
MinisignKeyOption = Annotated[
    Path | None, typer.Option("--minisign", metavar="KEY", help="Sign with this minisign key.")
]
TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="Public ssh keys, an OpenPGP keyring, or a minisign public key.",
    ),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Encrypt or decrypt with its first line."
    ),
]


def signer(
    ssh_key: Path | None, gpg_key: str | None, minisign_key: Path | None, namespace: str
) -> Sign | None:
    """What signs, if anything was asked for.

    ``namespace`` says what is signed: that of ssh-keygen -Y, minisign's trusted comment.
    """
    if sum(key is not None for key in (ssh_key, gpg_key, minisign_key)) > 1:
        raise SpecError("sign with one key", where="--sign, --gpg, --minisign")
    if ssh_key is not None:
        return lambda data, scratch: sign_ssh(data, ssh_key, scratch, namespace)
    if gpg_key is not None:
        return lambda data, scratch: sign_gpg(data, gpg_key, scratch)
    if minisign_key is not None:
        return lambda data, scratch: sign_minisign(data, minisign_key, scratch, namespace)
    return None
