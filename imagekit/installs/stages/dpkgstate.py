"""Whose scripts dpkg was running when it was ended, from its own records in a tree.

Before it runs a maintainer script, dpkg writes the package's state to a file of
/var/lib/dpkg/updates, from where it goes into /var/lib/dpkg/status now and then (dpkg's
lib/dpkg/dbmodify.c).
A package is half-installed while its preinst runs, half-configured while its postinst does
(deb-man-pages: dpkg(1), "Package states").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.guest.files import GuestFiles

STATUS = "/var/lib/dpkg/status"
UPDATES = "/var/lib/dpkg/updates"
MAX_STATUS = 32 << 20
"""Bytes; 2,000 packages have 2 MiB."""
MAX_UPDATES = 1000
"""dpkg(1) keeps up to 250."""
BUSY = {"half-installed", "half-configured"}
_STATE = re.compile(r"(?m)^(Package|Status): (.+)$")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")


def busy_packages(files: GuestFiles) -> list[str]:
    """The packages whose scripts ran when dpkg ended in this tree, by name. Raises GuestError."""
    states: dict[str, str] = {}
    for text in _records(files):
        for stanza in text.split("\n\n"):
            fields = dict(_STATE.findall(stanza))
            name, status = fields.get("Package", ""), fields.get("Status", "").split()
            if _NAME.fullmatch(name) and len(status) == 3:
                states[name] = status[2]
    return sorted(name for name, state in states.items() if state in BUSY)


def _records(files: GuestFiles) -> Iterator[str]:
    """The status file, then what came after it, oldest first."""
    yield files.text(STATUS, MAX_STATUS) or ""
    for name in files.names(UPDATES)[:MAX_UPDATES]:
        if name.isdigit():
            yield files.text(f"{UPDATES}/{name}") or ""
