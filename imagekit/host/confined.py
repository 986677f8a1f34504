"""Runs a program that works on strangers' bytes as a user of its own, with nothing else of ours.

The user has no name, no files and no other process, so that two such programs can neither read nor
signal nor trace each other. ``imagekit.host.confined_child`` makes the confinement. What the
program needs is handed over as open descriptors.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SHIPS = ("confined_child.py",)
CHILD = Path(__file__).parent / "confined_child.py"
FIRST_UID, UIDS = 0x70000000, 0x08000000
"""systemd's docs/UIDS-GIDS.md: nobody gives out 1879048192 to 2147483647."""
NOBODY = 65534
FAILED = 125
"""Exit status of a child that could not be confined."""

Network = Literal["host", "none", "gate"]
"""The host's; one of its own with nothing in it, where the host allows that; or one of its own, in
which every address is the child's own and imagekit answers on some ports (imagekit.vm.gate)."""


def new_user() -> int | None:
    """A uid for one run of one program; None where we are no root, who alone can change it.

    In a container that has too few ids it is nobody's, and in one that has only root's it is None.
    """
    if os.geteuid() != 0:
        return None
    if _mapped(FIRST_UID, UIDS):
        return FIRST_UID + secrets.randbelow(UIDS)
    return NOBODY if _mapped(NOBODY, 1) else None


def _mapped(first: int, count: int) -> bool:
    """Whether this user namespace has the ids (user_namespaces(7))."""
    for table in ("/proc/self/uid_map", "/proc/self/gid_map"):
        try:
            lines = [[int(n) for n in x.split()] for x in Path(table).read_text().splitlines()]
        except OSError:
            return False
        if not any(low <= first and first + count <= low + size for low, _, size in lines):
            return False
    return True


@dataclass(frozen=True)
class Confinement:
    """``uid`` and ``groups`` of the program (uid None: ours), its network, and its limits.

    ``limits`` are named as in getrlimit(2) without RLIMIT_; a core is never written.
    """

    uid: int | None
    groups: tuple[int, ...] = ()
    network: Network = "none"
    limits: Mapping[str, int] = field(default_factory=dict)

    def argv(
        self,
        argv: Sequence[str | Path],
        *,
        numbers: Mapping[int, int] | None = None,
        reply: int = -1,
        tcp: Sequence[int] = (),
        udp: Sequence[int] = (),
    ) -> list[str]:
        """The command that runs ``argv``, a program by its path and its arguments, confined.

        ``numbers`` are descriptors to pass, and the numbers that the program knows them by. With
        the network ``gate``, sockets that listen on the ports ``tcp`` and ``udp`` come back over
        the Unix socket ``reply``, in that order.
        """
        job = {
            "uid": self.uid,
            "groups": self.groups,
            "network": self.network,
            "limits": dict(self.limits),
            "numbers": list((numbers or {}).items()),
            "reply": reply,
            "tcp": list(tcp),
            "udp": list(udp),
            "parent": os.getpid(),
        }
        program = [sys.executable, "-I", "-S", str(CHILD), json.dumps(job)]
        return [*program, *(str(word) for word in argv)]
