"""Who vouches for a bundle: somebody whose key was named, or nobody, and then that is said.

Whatever a bundle holds acts as root on the host that it is given back on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from imagekit.errors import SpecError, VerificationError
from imagekit.host.signing import check_signature
from imagekit.recovery.container import Checked

Origin = Literal["signed", "anybody", "unchecked"]
"""Its signature is good; it may be anybody's; nobody has said whose it may be."""
OPTIONS = "--trust, --insecure-unsigned"
UNVOUCHED = "nobody vouches for the bundle: its signature was not asked for (--insecure-unsigned)"


def check_origin(
    checked: Checked, path: Path, trust: Path | None, scratch: Path, *, anybody: bool = False
) -> Origin:
    """Check the signature of the bundle ``path``, if ``trust`` names keys.

    Raises VerificationError when it is wrong or there is none, SpecError for both ways at once.
    """
    if trust is None:
        return "anybody" if anybody else "unchecked"
    if anybody:
        raise SpecError("name the keys, or take anybody's bundle; not both", where=OPTIONS)
    if checked.signature is None:
        raise VerificationError(
            "is not signed",
            where=str(path),
            hint="bundle create --sign KEY signs it; --insecure-unsigned instead of --trust takes "
            "it without",
        )
    check_signature(checked.sums, checked.signature, trust, scratch)
    return "signed"


def require_origin(origin: Origin, path: Path) -> None:
    """Raise VerificationError for a bundle of which nobody has said whose it may be."""
    if origin == "unchecked":
        raise VerificationError(
            "nobody vouches for this bundle, and what it holds acts as root on this host",
            where=str(path),
            hint="--trust FILE names the keys of those whose bundles are taken; "
            "--insecure-unsigned takes it from anybody",
        )
