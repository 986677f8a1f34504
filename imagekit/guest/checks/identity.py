"""Identity that a golden image would give to all its instances."""

from __future__ import annotations

from collections.abc import Iterator

from imagekit.guest.findings import Finding, Fix, Subject
from imagekit.guest.golden import IDENTITIES, Identity, found_in, remove_identity

_GOLDEN_ONLY = ("baked-ssh-host-keys", "build-logs", "build-traces")
"""Not taken from an image nobody called golden: Debian's sshd does not make new keys by itself."""


def find(subject: Subject) -> Iterator[Finding]:
    """One finding for each kind of identity that is in the image."""
    for identity in IDENTITIES:
        if (identity.trace or identity.code == "build-logs") and not subject.golden:
            continue
        paths = found_in(subject.files, identity)
        if paths:
            shown = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
            yield Finding(
                identity.code,
                "warning" if not identity.fatal else "error" if subject.golden else "info",
                "all",
                f"{identity.what}: {shown}",
                identity.consequence,
                "empty it" if identity.empty else "remove it; it is made anew at the first boot",
                subject.golden or identity.code not in _GOLDEN_ONLY,
            )


def _fix(identity: Identity) -> Fix:
    def fix(subject: Subject) -> None:
        remove_identity(subject.files, identity)

    return fix


FIXES: dict[str, Fix] = {identity.code: _fix(identity) for identity in IDENTITIES}
