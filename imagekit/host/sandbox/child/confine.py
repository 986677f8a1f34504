"""User namespaces and everything that a program gives up before it starts."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from imagekit.host import syscalls
from imagekit.host.sandbox.child.job import Limits

IDS = 65536
"""Ids of a tree: 0 to nobody and nogroup (65534)."""
GRACE = 1
"""Seconds of processor time between SIGXCPU and SIGKILL."""


def identity() -> list[tuple[int, int, int]]:
    """The ids of this user namespace, each as itself, as far as a tree has ids."""
    found = []
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _outside, count = map(int, line.split())
        if first < IDS:
            found.append((first, first, min(count, IDS - first)))
    return found


def user_namespace(base: int, processes: int | None) -> int:
    """A descriptor of a new user namespace; its ids are the host's from ``base`` on, or the same.

    ``processes`` bounds what may run in it (RLIMIT_NPROC, since Linux 5.14). Raises OSError.
    """
    lines = [(0, base, IDS)] if base else identity()
    table = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)
    theirs, ours = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(theirs[0])
        os.close(ours[1])
        _hold_user_namespace(theirs[1], ours[0], processes)
    os.close(theirs[1])
    os.close(ours[0])
    try:
        said = os.read(theirs[0], 4)
        if said != b"0":
            number = int(said or b"1")
            raise OSError(number, f"a new user namespace: {os.strerror(number)}")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as stream:  # noqa: PTH123 - one write(2)
                stream.write(table)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(theirs[0])
        os.close(ours[1])
        os.waitpid(pid, 0)


def _hold_user_namespace(say: int, wait: int, processes: int | None) -> None:
    """In a child: make the namespace, say so (or the error's number), hold it until told."""
    number = 0
    try:
        syscalls.die_with_parent()
        if processes is not None:
            syscalls.limit(resource.RLIMIT_NPROC, processes)
        syscalls.unshare(syscalls.NEWUSER)
    except OSError as error:
        number = error.errno or 1
    finally:
        os.write(say, str(number).encode())
        os.read(wait, 1)
        os._exit(0)


def become_root(descriptor: int) -> None:
    """Enter a user namespace and be its root."""
    syscalls.setns(descriptor, syscalls.NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def drop(kept: list[int]) -> None:
    """Give up every capability but ``kept``, for good (capabilities(7))."""
    syscalls.drop_bounding_set(kept)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.set_capabilities(kept)


def bound(limits: Limits) -> None:
    """Set the bounds of each process."""
    syscalls.limit(resource.RLIMIT_CORE, 0)
    syscalls.limit(resource.RLIMIT_FSIZE, limits.file_size)
    syscalls.limit(resource.RLIMIT_CPU, limits.cpu_seconds, GRACE)
    if limits.data is not None:
        syscalls.limit(resource.RLIMIT_DATA, limits.data)
    if limits.processes is not None:
        syscalls.limit(resource.RLIMIT_NPROC, limits.processes)
