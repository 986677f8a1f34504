"""What this host has to make a sandbox of, and what is done where something is missing."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError
from imagekit.host import userns
from imagekit.host.sandbox import filter

OPTION = "--allow-unsandboxed"
MOUNT_API = (5, 12)
"""mount_setattr(2), of Linux 5.12."""
TMPFS_IDMAPPED = (6, 3)
USER_NAMESPACE, FILTER = "user namespace", "system call filter"
NETWORK = "network of its own"
_AS_ROOT = "as root of this host, with its powers"
WITHOUT = {
    USER_NAMESPACE: _AS_ROOT,
    FILTER: _AS_ROOT,
    NETWORK: "in this host's network, with its loopback",
}
"""What goes on in place of each."""
_LOST: ContextVar[list[str] | None] = ContextVar("_LOST", default=None)
"""What was done without, where that is allowed."""


@dataclass(frozen=True)
class Means:
    """Which of those that can be missing are there."""

    user_namespace: bool
    filter: bool


@contextlib.contextmanager
def allow_unsandboxed(*, allowed: bool = True) -> Iterator[list[str]]:
    """Go on without user namespaces or filters in this thread, for the length of a block.

    Yields a list that names what was done without, once something was.
    """
    lost: list[str] = []
    token = _LOST.set(lost if allowed else None)
    try:
        yield lost
    finally:
        _LOST.reset(token)


def lost() -> tuple[str, ...]:
    """What was done without so far, in the block of :func:`allow_unsandboxed` that we are in."""
    return tuple(_LOST.get() or ())


def means() -> Means:
    """What a sandbox is made of; raises HostError for what is missing and not allowed to be."""
    there = {USER_NAMESPACE: True, FILTER: True}
    for name, (why, hint) in missing().items():
        do_without(name, why, hint)
        there[name] = False
    return Means(there[USER_NAMESPACE], there[FILTER])


def do_without(name: str, why: str, hint: str) -> None:
    """Note that ``name`` is missing, where that is allowed; raises HostError elsewhere."""
    lost = _LOST.get()
    # Without a user namespace an ordinary user has no mounts either.
    if lost is None or (name == USER_NAMESPACE and os.geteuid() != 0):
        raise HostError(
            f"programs of packages, elements and scripts cannot be confined: {why}",
            hint=f"{hint}; {OPTION} runs them {WITHOUT[name]}",
        )
    if name not in lost:
        lost.append(name)


@functools.cache
def missing() -> dict[str, tuple[str, str]]:
    """What this host lacks: why, and what to do."""
    found = {}
    problem = userns.unavailable()
    if problem is None and kernel_version() < MOUNT_API:
        problem = (f"Linux {platform.release()} is older than 5.12", "start a newer kernel")
    if problem is not None:
        found[USER_NAMESPACE] = problem
    try:
        filter.programs(mounting=False, i386=False)
        if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
            found[FILTER] = ("this kernel has no seccomp filters", "start one with CONFIG_SECCOMP")
    except HostError as error:
        found[FILTER] = (error.what, error.hint or "")
    return found


def kernel_version() -> tuple[int, int]:
    """The first two numbers of the running kernel's release."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def tmpfs_idmapped() -> bool:
    """Whether trees in memory can be shown with other owners than they have (idmapped mounts)."""
    return os.geteuid() != 0 or kernel_version() >= TMPFS_IDMAPPED
