"""Signatures of a SHA256SUMS: ssh-keygen -Y (PROTOCOL.sshsig of OpenSSH), OpenPGP, minisign(1)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from imagekit.errors import HostError, SpecError, ToolError, VerificationError
from imagekit.host import openpgp
from imagekit.host.outfile import replacing
from imagekit.host.run import run

SUMS = "SHA256SUMS"
"""Digests of everything that is signed, as sha256sum(1) reads them."""
SIGNATURES = (f"{SUMS}.sig", f"{SUMS}.asc", f"{SUMS}.minisig")
NAMESPACE = "imagekit-bundle"
BUILD_NAMESPACE = "imagekit-build"
PRINCIPAL = "bundle"
MAX_KEY_BYTES = 1 << 20
_TIME = re.compile(
    r'(?i)\b(valid-after|valid-before|expiry-time)="?(\d{8}(?:\d{4}|\d{6})?Z?)(?![0-9Z])"?'
)
"""Times of ssh-keygen(1), ALLOWED SIGNERS, and of sshd(8), AUTHORIZED_KEYS FILE FORMAT."""
HINT = "is this the key the bundle was signed with?"
Sign = Callable[[bytes, Path], tuple[str, bytes]]
"""Gets what is signed and a scratch directory; gives the signature's file name and content."""


def sign_build(build: Path, sign: Sign, scratch: Path) -> Path:
    """Put a detached signature of SHA256SUMS beside it; returns its path. Raises HostError."""
    try:
        data = (build / SUMS).read_bytes()
    except OSError as error:
        raise HostError(f"cannot read it: {error.strerror}", where=str(build / SUMS)) from None
    name, content = sign(data, scratch)
    with replacing(build / name, overwrite=True) as part:
        part.write_bytes(content)
        part.chmod(0o644)
    for other in SIGNATURES:
        if other != name:
            (build / other).unlink(missing_ok=True)
    return build / name


def sign_ssh(
    data: bytes, key: Path, scratch: Path, namespace: str = NAMESPACE
) -> tuple[str, bytes]:
    """Sign ``data`` with the private (or agent-held public) ssh key ``key``."""
    file = scratch / SUMS
    file.write_bytes(data)
    run(
        ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", namespace, str(file)],
        timeout=120,
        what="signing with the ssh key",
    )
    return f"{SUMS}.sig", (scratch / f"{SUMS}.sig").read_bytes()


def sign_gpg(data: bytes, key: str, scratch: Path) -> tuple[str, bytes]:
    """Sign ``data`` with the OpenPGP key ``key`` of the user's keyring."""
    file, target = scratch / SUMS, scratch / f"{SUMS}.asc"
    file.write_bytes(data)
    run(
        [
            *("gpg", "--batch", "--yes", "--armor", "--detach-sign", "--local-user", key),
            *("--output", str(target), str(file)),
        ],
        timeout=300,
        what="signing with the OpenPGP key",
    )
    return f"{SUMS}.asc", target.read_bytes()


def sign_minisign(data: bytes, key: Path, scratch: Path, comment: str) -> tuple[str, bytes]:
    """Sign ``data`` with the minisign secret key in the file ``key``, which has no password.

    ``comment`` is signed with it, in the place where minisign puts the time.
    """
    file, target = scratch / SUMS, scratch / f"{SUMS}.minisig"
    file.write_bytes(data)
    argv = ["minisign", "-S", "-s", str(key.absolute()), "-x", str(target), "-m", str(file)]
    try:
        run([*argv, "-t", comment], timeout=120, what="signing with the minisign key")
    except ToolError as error:
        error.hint = "the key must have no password (minisign -C -W -s KEY takes it away)"
        raise
    return target.name, target.read_bytes()


def check_signature(data: bytes, signature: tuple[str, bytes], trust: Path, scratch: Path) -> None:
    """Check the signature of ``data`` against ``trust``.

    ``trust`` is a file of public ssh keys (.pub, authorized_keys or allowed_signers), an OpenPGP
    keyring for gpgv(1), or a minisign public key. Raises VerificationError.
    """
    name, content = signature
    file = scratch / name
    file.write_bytes(content)
    try:
        if name.endswith(".sig"):
            signers = scratch / "allowed_signers"
            signers.write_text(_signers(trust))
            argv = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", PRINCIPAL]
            run([*argv, "-n", NAMESPACE, "-s", str(file)], input=data, timeout=60)
            return
        plain = scratch / SUMS
        plain.write_bytes(data)
        if name.endswith(".asc"):
            openpgp.verify(file, trust, plain, hint=HINT)
            return
        argv = ["minisign", "-V", "-q", "-p", str(trust.absolute())]
        run([*argv, "-x", str(file), "-m", str(plain)], timeout=60)
    except ToolError as error:
        raise VerificationError(
            f"the signature does not match: {error.output.strip().splitlines()[-1:]}",
            where=str(trust),
            hint=HINT,
        ) from None


def _signers(trust: Path) -> str:
    """allowed_signers of ssh-keygen(1) from a file of public keys, for one principal."""
    try:
        with trust.open("rb") as stream:
            text = stream.read(MAX_KEY_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        raise SpecError("cannot read the public keys", where=str(trust)) from None
    lines = []
    for line in text.splitlines():
        words = line.split()
        start = next(
            (i for i, w in enumerate(words) if w.startswith(("ssh-", "ecdsa-", "sk-"))), None
        )
        if line.startswith("#") or start is None or len(words) < start + 2:
            continue
        valid = _validity(" ".join(words[:start]))
        if valid is not None:
            key = f"{words[start]} {words[start + 1]}"
            lines.append(f'{PRINCIPAL} namespaces="{NAMESPACE}"{valid} {key}\n')
    if not lines:
        raise SpecError(
            "holds no public ssh key that may sign bundles",
            where=str(trust),
            hint=f"namespaces= of a key must have {NAMESPACE}, and cert-authority is not supported",
        )
    return "".join(lines)


def _validity(options: str) -> str | None:
    """When a key is valid, as options of allowed_signers, from those that stand before it.

    None for a key that may not sign bundles: one for other namespaces, an authority of
    certificates, or one whose times cannot be read.
    """
    namespaces = re.search(r'(?i)\bnamespaces="?([^"\s]*)"?', options)
    if re.search(r"(?i)\bcert-authority\b", options) or (
        namespaces and NAMESPACE not in namespaces[1].split(",")
    ):
        return None
    times = _TIME.findall(options)
    if len(times) != len(re.findall(r"(?i)\b(?:valid-after|valid-before|expiry-time)=", options)):
        return None
    names = {"expiry-time": "valid-before"}
    return "".join(f',{names.get(n.lower(), n.lower())}="{value}"' for n, value in times)
