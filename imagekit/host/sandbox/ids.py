"""The host's ids that stand for those of a tree while root builds."""

from __future__ import annotations

import functools
import grp
import pwd
from pathlib import Path

from imagekit.errors import HostError

IDS = 65536
FIXED_BASE = 0x7FFF0000
"""The last 65536 ids below 2^31, which nothing hands out: useradd, systemd-nspawn, DynamicUser and
systemd's foreign images end below (systemd's docs/UIDS-GIDS.md)."""
BOTH = ("/etc/subuid", "/etc/subgid")


def subordinate(texts: tuple[str, str]) -> int | None:
    """The first of 65536 ids that both tables (subuid(5), subgid(5)) give root, or None."""
    found: list[set[int]] = []
    for text in texts:
        lines = [line.split(":") for line in text.splitlines()]
        mine = [x for x in lines if len(x) == 3 and x[0] in ("root", "0")]
        found.append(
            {int(x[1]) for x in mine if x[1].isdigit() and x[2].isdigit() and int(x[2]) >= IDS}
        )
    return min(found[0] & found[1], default=None)


@functools.cache
def first_id() -> int:
    """The host's id of a sandbox's root; raises HostError when an account has one of its ids."""
    texts = [Path(name).read_text() if Path(name).exists() else "" for name in BOTH]
    base = subordinate((texts[0], texts[1])) or FIXED_BASE
    taken = [f"user {u.pw_name}" for u in pwd.getpwall() if base <= u.pw_uid < base + IDS]
    taken += [f"group {g.gr_name}" for g in grp.getgrall() if base <= g.gr_gid < base + IDS]
    if taken:
        raise HostError(
            f"the ids {base} to {base + IDS - 1}, which sandboxes run with, are not free: "
            f"{taken[0]} has one",
            hint="give root 65536 free ids: usermod --add-subuids FIRST-LAST --add-subgids "
            "FIRST-LAST root",
        )
    return base
