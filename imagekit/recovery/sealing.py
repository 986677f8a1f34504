"""Members of a bundle that only the right people can read: OpenPGP by gpg(1), or age(1).

Sealed to keys, or with a passphrase (OpenPGP: age asks for one on a terminal only). What is sealed
is checked by the bundle's digests like everything else, without the key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import SpecError, ToolError, VerificationError
from imagekit.host.run import run

GPG = ".gpg"
AGE = ".age"
SUFFIXES = (GPG, AGE)
MAX_PASSPHRASE = 4096
AGE_RECIPIENTS = ("age1", "ssh-ed25519 ", "ssh-rsa ")
"""How a recipient begins that is a key itself (RECIPIENTS AND IDENTITIES in age(1))."""


@dataclass(frozen=True)
class Seal:
    """For whom to seal: names of OpenPGP keys, whoever knows the passphrase in a file, or age.

    ``age`` are recipients as age(1) has them, or names of files of such.
    """

    recipients: tuple[str, ...] = ()
    passphrase: Path | None = None
    age: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if [bool(self.recipients), bool(self.passphrase), bool(self.age)].count(True) != 1:
            raise SpecError(
                "seal in one way: to OpenPGP keys, to age recipients or with a passphrase",
                where="--encrypt-to, --age, --passphrase-file",
            )

    @property
    def suffix(self) -> str:
        """What the name of a sealed member ends in."""
        return AGE if self.age else GPG


@dataclass(frozen=True)
class Unlock:
    """What opens a seal: gpg's own secret keys unless there is a passphrase or an age identity."""

    passphrase: Path | None = None
    identity: Path | None = None


def gnupg() -> dict[str, str]:
    """The environment in which gpg finds the user's keyring."""
    return {k: os.environ[k] for k in ("GNUPGHOME", "GPG_TTY") if k in os.environ}


def seal(source: Path, target: Path, how: Seal, scratch: Path) -> None:
    """Encrypt ``source`` into the new file ``target``. ``scratch`` is an empty directory.

    Raises SpecError for keys that are not there and for a passphrase that cannot be read.
    """
    if how.age:
        _seal_age(source, target, how.age)
        return
    argv = ["gpg", "--batch", "--yes", "--quiet", "--compress-algo", "none"]
    if how.passphrase is not None:
        argv += [*_with_passphrase(how.passphrase, scratch), "--symmetric"]
        # The largest count of RFC 4880, 3.7.1.3; gpg would ask its agent for one.
        argv += ["--cipher-algo", "AES256", "--s2k-count", "65011712"]
    else:
        # The user names the keys here: whether they are certified by anybody is not asked.
        argv += ["--no-auto-key-locate", "--trust-model", "always", "--encrypt"]
        for recipient in how.recipients:
            argv += ["--recipient", recipient]
    argv += ["--output", str(target), str(source)]
    try:
        run(argv, env=gnupg(), timeout=7200, what="encrypting")
    except ToolError as error:
        raise SpecError(
            f"gpg does not encrypt: {_said(error)}",
            where="--passphrase-file" if how.passphrase else ", ".join(how.recipients),
        ) from None


def _seal_age(source: Path, target: Path, recipients: tuple[str, ...]) -> None:
    argv = ["age", "--encrypt"]
    for recipient in recipients:
        if recipient.startswith(AGE_RECIPIENTS):
            argv += ["--recipient", recipient]
        elif Path(recipient).is_file():
            argv += ["--recipients-file", str(Path(recipient).absolute())]
        else:
            raise SpecError(
                "is neither an age recipient nor a file of them",
                where=f"--age {recipient}",
                hint="age1..., an ssh-ed25519 or ssh-rsa public key, or a file of these",
            )
    try:
        run([*argv, "--output", str(target), str(source)], timeout=7200, what="encrypting")
    except ToolError as error:
        raise SpecError(f"age does not encrypt: {_said(error)}", where="--age") from None


def unseal(source: Path, target: Path, keys: Unlock, scratch: Path) -> None:
    """Decrypt ``source`` into the new file ``target``; raises VerificationError without the key."""
    if source.suffix == AGE:
        if keys.identity is None:
            raise VerificationError(
                "is encrypted by age", where=source.name, hint="--age-identity names the key's file"
            )
        argv = ["age", "--decrypt", "--identity", str(keys.identity.absolute())]
        hint = "is --age-identity the key of one of the recipients?"
    else:
        argv = ["gpg", "--batch", "--yes", "--quiet"]
        if keys.passphrase is not None:
            argv += _with_passphrase(keys.passphrase, scratch)
        hint = "--passphrase-file names the passphrase; else gpg needs the secret key"
    argv += ["--output", str(target)]
    argv += ["--decrypt", str(source)] if source.suffix != AGE else [str(source)]
    try:
        run(argv, env=gnupg(), timeout=7200, what="decrypting")
    except ToolError as error:
        # age leaves what it had decrypted until it met a damaged block.
        target.unlink(missing_ok=True)
        raise VerificationError(
            f"cannot be decrypted: {_said(error)}", where=source.name, hint=hint
        ) from None
    target.chmod(0o600)


def _said(error: ToolError) -> str:
    return " ".join(error.output.split())[-300:]


def _with_passphrase(passphrase: Path, scratch: Path) -> list[str]:
    """Options for a passphrase alone: no keyring of the user's, and no agent that stays."""
    try:
        with passphrase.open("rb") as stream:
            text = stream.read(MAX_PASSPHRASE + 1)
    except OSError as error:
        raise SpecError(
            f"cannot read the passphrase: {error.strerror}", where=str(passphrase)
        ) from None
    line = text.partition(b"\n")[0]
    if not line or len(text) > MAX_PASSPHRASE:
        raise SpecError("holds no passphrase in its first line", where=str(passphrase))
    home = scratch / "gnupg"
    home.mkdir(mode=0o700, exist_ok=True)
    return [
        *("--homedir", str(home), "--no-autostart", "--pinentry-mode", "loopback"),
        *("--passphrase-file", str(passphrase.absolute())),
    ]
