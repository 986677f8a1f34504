"""Members of a bundle that only the right people can read: OpenPGP, by gpg(1).

Sealed to recipients of the user's keyring, or with a passphrase. What is sealed is checked by the
bundle's digests like everything else, without the key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import SpecError, ToolError, VerificationError
from imagekit.host.run import run

SUFFIX = ".gpg"
MAX_PASSPHRASE = 4096


@dataclass(frozen=True)
class Seal:
    """For whom to seal: OpenPGP key names, or whoever knows the passphrase in a file."""

    recipients: tuple[str, ...] = ()
    passphrase: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.recipients) == bool(self.passphrase):
            raise SpecError("seal to keys or with a passphrase, one of both", where="--encrypt-to")


def gnupg() -> dict[str, str]:
    """The environment in which gpg finds the user's keyring."""
    return {k: os.environ[k] for k in ("GNUPGHOME", "GPG_TTY") if k in os.environ}


def seal(source: Path, target: Path, how: Seal, scratch: Path) -> None:
    """Encrypt ``source`` into the new file ``target``. ``scratch`` is an empty directory.

    Raises SpecError for keys that are not there and for a passphrase that cannot be read.
    """
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
            f"gpg does not encrypt: {' '.join(error.output.split())[-300:]}",
            where="--passphrase-file" if how.passphrase else ", ".join(how.recipients),
        ) from None


def unseal(source: Path, target: Path, passphrase: Path | None, scratch: Path) -> None:
    """Decrypt ``source`` into the new file ``target``; raises VerificationError without the key."""
    argv = ["gpg", "--batch", "--yes", "--quiet"]
    if passphrase is not None:
        argv += _with_passphrase(passphrase, scratch)
    argv += ["--output", str(target), "--decrypt", str(source)]
    try:
        run(argv, env=gnupg(), timeout=7200, what="decrypting")
    except ToolError as error:
        raise VerificationError(
            f"cannot be decrypted: {' '.join(error.output.split())[-300:]}",
            where=source.name,
            hint="--passphrase-file names the passphrase; else gpg needs the secret key",
        ) from None
    target.chmod(0o600)


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
