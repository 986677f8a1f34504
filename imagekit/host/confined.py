"""Runs a program that works on strangers' bytes as a user of its own, with nothing else of ours.

The user has no name, no files and no other process, so that two such programs can neither read nor
signal nor trace each other. ``imagekit.host.confined_child`` makes the confinement. What the
program needs is handed over as open descriptors.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.host.run import child_argv

SHIPS = ("confined_child.py", "syscalls.py")
FIRST_UID, UIDS = 0x70000000, 0x08000000
"""systemd's docs/UIDS-GIDS.md: nobody gives out 1879048192 to 2147483647."""
FIRST_DOMAIN, DOMAINS = 0x78000000, 0x01000000
"""Users of domains, behind those of runs: the same number is the same user every time."""
TABLES = (Path("/proc/self/uid_map"), Path("/proc/self/gid_map"))
NOBODY = 65534
Network = Literal["host", "none", "gate"]
"""The host's; one of its own with nothing in it, where the host allows that; or one of its own, in
which every address is the child's own and imagekit answers on some ports (imagekit.vm.gate)."""


def new_user() -> int | None:
    """A uid for one run of one program; None where we are no root, who alone can change it.

    In a container that has too few ids it is nobody's, and in one that has only root's it is None.
    """
    return usable(FIRST_UID + secrets.randbelow(UIDS))


def user_of_domain(number: int) -> int | None:
    """The uid of the domain ``number``, else as :func:`new_user`."""
    return usable(FIRST_DOMAIN + number % DOMAINS)


def usable(uid: int) -> int | None:
    """``uid``, or what stands for it where it cannot be had: see :func:`new_user`."""
    if os.geteuid() != 0:
        return None
    return next((one for one in (uid, NOBODY) if _mapped(one)), None)


def _mapped(uid: int) -> bool:
    """Whether this user namespace has the user and its group (user_namespaces(7))."""
    for table in TABLES:
        try:
            lines = [[int(n) for n in x.split()] for x in table.read_text().splitlines()]
        except OSError:
            return False
        if not any(low <= uid < low + size for low, _, size in lines):
            return False
    return True


@dataclass(frozen=True)
class Room:
    """A file system of its own at ``at``, a directory of the host, in place of what is there.

    By their names in it, ``shown`` are files and block devices that the program can read, whoever
    owns them, and ``writable`` directories. Only root can make one.
    """

    at: Path
    shown: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Confinement:
    """``uid`` and ``groups`` of the program (uid None: ours), its network, limits and room.

    ``limits`` are named as in getrlimit(2) without RLIMIT_; a core is never written.
    """

    uid: int | None
    groups: tuple[int, ...] = ()
    network: Network = "none"
    limits: Mapping[str, int] = field(default_factory=dict)
    room: Room | None = None

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
            "room": _words(self.room) if self.room else None,
        }
        words = [json.dumps(job), *(str(word) for word in argv)]
        return [*child_argv("imagekit.host.confined_child"), *words]


def _words(room: Room) -> list[object]:
    shown = {name: str(path) for name, path in room.shown.items()}
    return [str(room.at), shown, {name: str(path) for name, path in room.writable.items()}]
