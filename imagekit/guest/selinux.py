"""Labels of SELinux, which what changes an image from outside cannot give."""

from __future__ import annotations

import re

from imagekit.guest.files import GuestFiles

RELABELLED = "SELinux labels are renewed at the next boot (/.autorelabel)"
"""What the user is told where :func:`relabel` says so."""


def relabel(files: GuestFiles) -> bool:
    """Ask an SELinux guest to label the new files at its next boot; False for other guests.

    /.autorelabel is what selinux-autorelabel(8) of Fedora and Debian's selinux-basics look for.
    """
    config = files.text("/etc/selinux/config") or ""
    mode = re.findall(r"(?m)^\s*SELINUX\s*=\s*(\w+)", config)
    if not mode or mode[-1].lower() not in ("enforcing", "permissive"):
        return False
    if files.lstat("/.autorelabel") is None:
        files.write("/.autorelabel", b"", mode=0o644)
    return True
