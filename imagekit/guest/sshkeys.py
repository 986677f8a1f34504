"""Public keys as OpenSSH's authorized_keys has them (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

MAX_LINE = 16 << 10

_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_KEY = re.compile(
    r"(?:^|[ \t])(?P<type>" + "|".join(map(re.escape, _TYPES)) + r")[ \t]+(?P<blob>[A-Za-z0-9+/=]+)"
)


@dataclass(frozen=True)
class PublicKey:
    """One line of authorized_keys; two lines with the same ``blob`` are the same key."""

    line: str
    blob: str = field(compare=True)


def parse_key(line: str) -> PublicKey | None:
    """The key of a line, None for blank lines, comments and what is not a whole key."""
    line = line.strip()
    if not line or line.startswith("#") or len(line) > MAX_LINE or not line.isprintable():
        return None
    for match in _KEY.finditer(line):
        try:
            raw = base64.b64decode(match["blob"], validate=True)
        except (binascii.Error, ValueError):
            continue
        # RFC 4253 6.6: the blob starts with its own type as a length-prefixed string.
        length = int.from_bytes(raw[:4], "big")
        if len(raw) > 4 + length and raw[4 : 4 + length] == match["type"].encode():
            return PublicKey(line, match["blob"])
    return None


def parse_keys(text: str) -> tuple[PublicKey, ...]:
    """All keys of a file; raises ValueError for private keys, wrong lines and files without any."""
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key, which must not be put into an image")
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        key = parse_key(line)
        if key is None:
            raise ValueError(f"line {number} is not a public key")
        keys.append(key)
    if not keys:
        raise ValueError("holds no public key")
    return tuple(keys)


def add_keys(text: str, keys: tuple[PublicKey, ...]) -> str:
    """authorized_keys ``text`` with the ``keys`` it lacks added at its end."""
    lines = text.splitlines()
    present = {key.blob for line in lines if (key := parse_key(line))}
    present |= {key.blob for key in keys if key.line in lines}
    if text and not text.endswith("\n"):
        text += "\n"
    for key in keys:
        if key.blob not in present:
            present.add(key.blob)
            text += key.line + "\n"
    return text
