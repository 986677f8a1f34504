"""OpenPGP signatures, by gpgv(1): all that imagekit verifies with a keyring is verified here.

gpgv exits with 0 for signatures of revoked and of expired keys, too. What counts is what it says of
each signature on its status lines ("General status codes", "Format of the colon listings" of
GnuPG's doc/DETAILS).
"""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import VerificationError
from imagekit.host.run import run

REASONS = {
    "BADSIG": "what it signs was changed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key that made it has expired",
    "REVKEYSIG": "the key that made it was revoked",
    "ERRSIG": "no key of the keyring made it",
}
"""What the status lines are that tell of a signature which is not good."""


def verify(
    signature: Path,
    keyring: Path,
    data: Path | None = None,
    *,
    plain: Path | None = None,
    hint: str | None = None,
) -> None:
    """Raise VerificationError unless a valid key of ``keyring`` signed ``data``.

    Without ``data`` the signature is of the inline kind, and what it covers goes to ``plain``. Of
    several signatures one must be good: keys of ``keyring`` may be missing or have run out for
    others. A wrong one spoils all.
    """
    # gpgv takes a name without a slash for one in its own directory.
    argv: list[str | Path] = ["gpgv", "--status-fd", "1", "--keyring", keyring.absolute()]
    argv += ["--output", plain.absolute()] if plain else []
    argv += [signature.absolute(), *([data.absolute()] if data else [])]
    done = run(argv, check=False, timeout=600)
    states = _states(done.text)
    if _good(states) and (plain is None or plain.is_file()):
        return
    if plain is not None:
        plain.unlink(missing_ok=True)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = next((REASONS[state] for one in states for state in one if state in REASONS), "")
    reason = reason or (said[-1][:200] if said else "")
    raise VerificationError(
        "the signature is not good" + (f": {reason}" if reason else ""),
        where=str(data or signature),
        hint=hint or f"the keyring is {keyring}",
    )


def _states(text: str) -> list[set[str]]:
    """The keywords that gpgv says of each signature."""
    found: list[set[str]] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "[GNUPG:]":
            continue
        if words[1] == "NEWSIG" or not found:
            found.append(set())
        found[-1].add(words[1])
    return found


def _good(states: list[set[str]]) -> bool:
    """Whether one signature is good and none is wrong. GOODSIG is said of keys that count alone."""
    if any("BADSIG" in one for one in states):
        return False
    return any({"GOODSIG", "VALIDSIG"} <= one and not one & REASONS.keys() for one in states)
