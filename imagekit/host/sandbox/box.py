"""Runs somebody else's code as root of a file system of its own, with none of the host's powers.

Two shapes: a tree becomes the whole file system, or an empty one is made that holds the host's
programs read-only and a few writable directories (scripts that run beside a tree). In both,
``imagekit.host.sandbox.child`` makes it and becomes the program. Its root is root of a user
namespace, also when root builds; the namespaces of mounts, processes, IPC, host name, control
groups and network are its own; pivot_root(2) leaves no path to the host's files; capabilities,
system calls, memory, processes, time and file sizes are bounded by a :class:`Profile`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import ToolError
from imagekit.host import userns
from imagekit.host.run import Completed, run
from imagekit.host.sandbox import bounds, filter, ids
from imagekit.host.sandbox.child.job import Job, Limits, Mount
from imagekit.host.sandbox.hostfiles import host_links, host_mounts
from imagekit.host.sandbox.network import Connection, connected
from imagekit.host.sandbox.profiles import Profile

SHIPS = ("child", "sudo.sh")
CHILD = Path(__file__).parent / "child"
SUDO = Path(__file__).parent / "sudo.sh"
"""A sudo for those who are root already."""
SHM_SHARE = 4
"""A file system in memory may take this part of the bound on memory."""
FREE = 256 << 20
"""Bytes that stay free on a file system that a sandbox writes to."""
TMPFS_MAGIC = 0x01021994  # linux/magic.h


@dataclass(frozen=True)
class Sandbox:
    """A file system to run in, and what may be done there.

    ``root`` is the tree; with ``host_programs`` it is not used, and the root is an empty one with
    the host's programs. ``read_only`` and ``writable`` map files and directories of the host to
    absolute paths inside; their owners inside are as on disk. ``network``: a way out, or none.
    ``later`` maps paths inside to others inside where they are shown as well, from when the program
    asks for it: it writes a line to descriptor 8, and reads one.
    """

    root: Path
    profile: Profile
    host_programs: bool = False
    read_only: Mapping[Path, str] = field(default_factory=dict)
    writable: Mapping[Path, str] = field(default_factory=dict)
    network: bool = False
    later: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        timeout: float | None,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
        what: str | None = None,
    ) -> Completed:
        """Run ``argv`` with exactly ``env``; ``timeout`` in seconds ends all it has started.

        Descriptor 9 is a copy of standard error. Raises ToolError, which names the bound that was
        reached, and HostError where there are no user namespaces.
        """
        profile = self.profile
        memory = profile.memory + (profile.disk if self._in_memory() else 0)
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(bounds.group(memory, profile.processes))
            joined = stack.enter_context(self._connection())
            report, reported = stack.enter_context(_pipe())
            job = self._job(argv, env, cwd, group, joined)._replace(report=reported)
            descriptors = [d for d in (job.net, job.user) if d is not None]
            program = [sys.executable, "-I", "-S", str(CHILD)]
            prefix = userns.prefix() if joined is None or joined.user is None else []
            try:
                return run(
                    [*prefix, *program],
                    input=json.dumps(job).encode(),
                    timeout=timeout,
                    log=log,
                    on_line=on_line,
                    pass_fds=(reported, *descriptors),
                    check=check,
                    what=what,
                )
            except ToolError as error:
                self._explain(error, group, _said(report))
                raise

    def _job(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        group: bounds.Group | None,
        joined: Connection | None,
    ) -> Job:
        profile = self.profile
        mounts = list(host_mounts()) if self.host_programs else []
        for paths, read_only in ((self.writable, False), (self.read_only, True)):
            mounts += [Mount(str(s), d, read_only, mapped=True) for s, d in paths.items()]
        way = "joined" if joined else "host" if self.network else "none"
        root = os.geteuid() == 0
        programs = filter.programs(mounting=profile.mounting)
        return Job(
            root=str(self.root),
            empty=self.host_programs,
            mounts=mounts,
            links=list(host_links()) if self.host_programs else [],
            argv=list(argv),
            env=dict(env),
            cwd=cwd,
            kept=profile.kept,
            mounting=profile.mounting,
            user_namespace=profile.user_namespace,
            base=ids.first_id() if root and profile.user_namespace else 0,
            recursive=not root,
            sysfs=profile.sysfs,
            limits=self._limits(group),
            join=group.join if group else [],
            network=way,
            net=joined.net if joined else None,
            user=joined.user if joined else None,
            later=list(self.later.items()),
            filters=[base64.b64encode(p).decode() for p in programs],
            report=-1,
            parent=os.getpid(),
        )

    def _limits(self, group: bounds.Group | None) -> Limits:
        profile = self.profile
        return Limits(
            data=profile.memory,
            file_size=profile.file_size,
            cpu_seconds=profile.cpu_seconds,
            processes=None if group else profile.processes,
            free=FREE,
            shared_memory=profile.memory // SHM_SHARE,
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection | None]:
        if not self.network:
            yield None
            return
        with connected() as connection:
            yield connection

    def _in_memory(self) -> bool:
        """Whether files of the sandbox are on tmpfs, whose pages count as its memory."""
        places = [*self.writable, *([] if self.host_programs else [self.root])]
        return any(_is_tmpfs(path) for path in places)

    def _explain(self, error: ToolError, group: bounds.Group | None, said: list[str]) -> None:
        """Say which bound was reached, if one was."""
        words = {
            "memory": f"{self.profile.memory >> 20} MiB of memory",
            "processes": f"{self.profile.processes} processes",
            "disk": f"{FREE >> 20} MiB that must stay free where it writes",
            "cpu": f"{self.profile.cpu_seconds} s of processor time for one process",
            "file": f"{self.profile.file_size >> 20} MiB for one file",
        }
        by_signal = {-24: "cpu", 152: "cpu", -25: "file", 153: "file"}  # SIGXCPU, SIGXFSZ
        hit = "disk" if "disk" in said else group.hit() if group else None
        hit = hit or by_signal.get(error.returncode or 0)
        if hit is not None:
            error.args = (f"{error.what}: it reached the sandbox's bound of {words[hit]}",)
            error.what = str(error.args[0])


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _said(report: int) -> list[str]:
    try:
        return os.read(report, 4096).decode().split()
    except BlockingIOError:
        return []


def _is_tmpfs(path: Path) -> bool:
    device = os.stat(path).st_dev  # noqa: PTH116 - the number alone
    return f"{os.major(device)}:{os.minor(device)}" in _tmpfs_devices()


def _tmpfs_devices() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {x.split()[2] for x in lines if x.partition(" - ")[2].split()[0] == "tmpfs"}
