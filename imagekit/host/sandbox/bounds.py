"""Bounds on all that runs in a sandbox together: a control group, where this user may make one.

With version 2 of control groups it is made beside or above our own, wherever the controllers of
memory and processes are on for children and the directory is ours to write to (root; a user whose
systemd delegates). With version 1 there is one in each of the two hierarchies. Sources:
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError
from imagekit.host.sandbox.child.job import Watched

NAME = "imagekit-sandbox"
CONTROLLERS = ("memory", "pids")
SMALL = 1 << 20
VARIABLE = "IMAGEKIT_SANDBOX_MEMORY"
"""Of the environment: MiB of memory for every purpose, in place of what its profile has."""
PATIENCE = 10.0
"""Seconds for the kernel to end what was killed, before its group can be removed."""


def memory_of(usual: int, environment: Mapping[str, str]) -> int:
    """The bound on memory, in bytes: ``usual``, or what :data:`VARIABLE` says; raises HostError."""
    text = environment.get(VARIABLE)
    if text is None:
        return usual
    if not re.fullmatch(r"[1-9][0-9]{1,7}", text, re.ASCII):
        raise HostError(
            f"{VARIABLE} is {text!r}, which is no number of MiB",
            hint=f"set it to 2048, for example, or leave it out: {usual >> 20} here",
        )
    return int(text) << 20


@dataclass(frozen=True)
class Group:
    """A control group of one sandbox: a directory for each hierarchy."""

    directories: tuple[Path, ...]

    @property
    def join(self) -> list[str]:
        """The files that a process writes itself to."""
        return [str(d / "cgroup.procs") for d in self.directories]

    def watched(self, memory: int) -> list[Watched]:
        """What tells that a bound was reached: kills for want of memory, refused processes.

        ``memory`` (bytes) bounds what is no file's: pages of files in memory count for the group,
        but not here.
        """
        found = []
        for directory in self.directories:
            for name, key, most, bound in (
                ("memory.events", "oom_kill", 0, "memory"),
                ("memory.oom_control", "oom_kill", 0, "memory"),
                ("memory.stat", "anon", memory, "memory"),  # version 2
                ("memory.stat", "rss", memory, "memory"),  # version 1
                ("pids.events", "max", 0, "processes"),
            ):
                path = directory / name
                if path.exists():
                    found.append(Watched(str(path), key, most, bound))
        return found


@contextlib.contextmanager
def group(memory: int, processes: int) -> Iterator[Group | None]:
    """A control group with bounds (bytes, number) for the length of a block, or None.

    What still runs in it at the end is killed.
    """
    made = _make(memory, processes)
    try:
        yield made
    finally:
        for directory in made.directories if made else ():
            _remove(directory)


def _make(memory: int, processes: int) -> Group | None:
    name = f"{NAME}-{os.getpid()}-{secrets.token_hex(4)}"
    made: list[Path] = []
    try:
        for parent in parents():
            _sweep(parent)
            directory = parent / name
            directory.mkdir()
            made.append(directory)
        found = Group(tuple(made))
        _set(found, memory, processes)
    except OSError:
        for directory in made:
            _remove(directory)
        return None
    return found if made else None


def _set(made: Group, memory: int, processes: int) -> None:
    for directory in made.directories:
        for name, value in (
            ("memory.max", memory),
            ("memory.swap.max", 0),
            ("memory.oom.group", 1),
            ("memory.limit_in_bytes", memory),
            ("memory.memsw.limit_in_bytes", memory),
            ("pids.max", processes),
        ):
            if (directory / name).exists():
                (directory / name).write_text(str(value))


def parents(
    membership: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/proc/self/mountinfo")
) -> list[Path]:
    """Directories in which a group for both controllers can be made; empty where there are none."""
    own = {}
    for line in membership.read_text().splitlines():
        _hierarchy, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    found = []
    for line in mounts.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        root, point = fields.split()[3:5]
        kind, _source, options = rest.split()[:3]
        wanted = [c for c in CONTROLLERS if c in options.split(",")]
        if kind == "cgroup" and wanted:
            found.append((wanted, _within(point, root, own.get(wanted[0], "/"))))
        elif kind == "cgroup2":
            parent = _delegated(Path(point), _within(point, root, own.get("", "/")))
            if parent is not None:
                return [parent]
    have = {controller for wanted, _path in found for controller in wanted}
    return [path for _wanted, path in found] if have == set(CONTROLLERS) else []


def _within(point: str, root: str, path: str) -> Path:
    """The directory of the group ``path`` in a hierarchy whose ``root`` is mounted at ``point``."""
    below = path.removeprefix(root) if root != "/" else path
    return Path(point, below.lstrip("/")) if ".." not in below else Path(point)


def _delegated(top: Path, own: Path) -> Path | None:
    """The nearest group, from ``own`` up, whose children have both controllers, if it is ours."""
    for directory in (own, *own.parents):
        try:
            on = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            on = []
        if set(CONTROLLERS) <= set(on) and os.access(directory, os.W_OK):
            return directory
        if directory == top:
            break
    return None


def _sweep(parent: Path) -> None:
    """Remove groups of runs that were killed: empty, and their process is gone."""
    for directory in parent.glob(f"{NAME}-*"):
        pid = directory.name.removeprefix(f"{NAME}-").partition("-")[0]
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                directory.rmdir()


def _remove(directory: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                return
        with contextlib.suppress(OSError, ValueError):
            for pid in map(int, (directory / "cgroup.procs").read_text().split()):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
