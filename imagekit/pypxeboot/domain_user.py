"""As which user a domain's disk and network are read: another one for each domain.

Sources: Xen docs/features/qemu-deprivilege.pandoc (the user xen-qemuuser-range-base stands for the
first of a range, from which a domain's number is counted) and libxl_bootloader.c (bootloader_uid;
the output of a bootloader is bootloader.DOMID.out).
"""

from __future__ import annotations

import hashlib
import pwd
import re

from imagekit.host.confined import DOMAINS, usable, user_of_domain

RANGE_BASE = "xen-qemuuser-range-base"
_OUTPUT = re.compile(r"(?:.*/)?bootloader\.([0-9]{1,5})\.out")
_NUMBERS = 1 << 15
"""Domain numbers are below DOMID_FIRST_RESERVED, 0x7ff0 (xen/include/public/xen.h)."""


def domain_user(runas: str, output: str | None, mac: str, disk: str) -> int | None:
    """The uid for a domain; None where we are no root.

    It is the one that ``runas`` names; else the one that the toolstack keeps for the domain whose
    number is in the name of ``output``; else one of ours for that number, or without a number for
    the ``mac``, or without that too for the ``disk``.
    """
    if runas:
        return usable(int(runas))
    found = _OUTPUT.fullmatch(output or "")
    if found is None:
        digest = hashlib.sha256((mac.lower() or disk).encode("utf-8", "surrogateescape")).digest()
        return user_of_domain(_NUMBERS + int.from_bytes(digest[:8]) % (DOMAINS - _NUMBERS))
    number = int(found[1])
    try:
        return usable(pwd.getpwnam(RANGE_BASE).pw_uid + number)
    except KeyError:
        return user_of_domain(number)
