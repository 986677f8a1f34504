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
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.errors import ToolError
from imagekit.host import userns
from imagekit.host.opening import open_at
from imagekit.host.run import Completed, run
from imagekit.host.sandbox import bounds, filter, ids
from imagekit.host.sandbox.child.job import Job, Limits, Mount
from imagekit.host.sandbox.hostfiles import host_links, host_mounts
from imagekit.host.sandbox.means import means
from imagekit.host.sandbox.network import Connection, connected
from imagekit.host.sandbox.profiles import Profile

SHIPS = ("child", "../syscalls.py", "sudo.sh", "mknod.sh", "mount.sh", "umount.sh")
CHILD = Path(__file__).parent / "child"
SUDO = Path(__file__).parent / "sudo.sh"
"""A sudo for those who are root already."""
SHM_SHARE = 4
"""A file system in memory may take this part of the bound on memory."""
FREE = 256 << 20
"""Bytes that stay free on a file system that a sandbox writes to."""
OUTPUT = 64 << 20
"""Bytes that a program may print; the logs of the lab's compilers have a few MiB."""
IDENTITY = """imagekit: this file system or kernel cannot show a tree with other owners
(idmapped mounts): ids in the sandbox are the host's own; its root has no power over the host.
"""
BY_STATUS = {-24: "cpu", 152: "cpu", -25: "file", 153: "file"}
"""SIGXCPU and SIGXFSZ, of the program itself or of one that a shell waited for."""
WITHOUT_GROUP = {
    "memory": re.compile(r"(?i)cannot allocate memory|out of memory|MemoryError|memory exhausted"),
    "processes": re.compile(r"(?i)cannot fork|fork: .*resource temporarily unavailable"),
}
"""What programs say when setrlimit(2) is all that bounds them."""


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
        with contextlib.ExitStack() as stack:
            bounded = bounds.group(self._memory(), self.profile.processes)
            group = stack.enter_context(bounded)
            joined = stack.enter_context(self._connection())
            report, reported = stack.enter_context(_pipe())
            job = self._job(argv, env, cwd, group, joined)._replace(report=reported)
            descriptors = [d for d in (job.net, job.user) if d is not None]
            prefix = userns.prefix() if joined is None or joined.user is None else []
            done = run(
                [*prefix, sys.executable, "-I", "-S", str(CHILD)],
                input=json.dumps(job).encode(),
                timeout=timeout,
                log=log,
                on_line=on_line,
                pass_fds=(reported, *descriptors),
                check=False,
                what=what,
                output_limit=OUTPUT,
            )
            said = _said(report)
        if log is not None and "identity" in said:
            with log.open("a") as stream:
                stream.write(IDENTITY)
        bound = self._bound(done, said, grouped=group is not None)
        if bound is not None or (check and done.returncode != 0):
            raise _failure(done, bound, what, log)
        return done

    def _limit(self) -> int:
        return bounds.memory_of(self.profile.memory, os.environ)

    def _memory(self) -> int:
        """The bound on memory of all, in bytes, files of trees in memory included."""
        if not self._in_memory():
            return self._limit()
        return self._limit() + min(self.profile.disk, available_memory() // 2)

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
        there = means()
        mine = profile.user_namespace and there.user_namespace
        i386 = not self.host_programs and runs_i386(self.root)
        programs = filter.programs(mounting=profile.mounting, i386=i386) if there.filter else ()
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
            user_namespace=mine,
            base=ids.first_id() if root and mine else 0,
            recursive=not root,
            sysfs=profile.sysfs,
            limits=self._limits(group),
            join=group.join if group else [],
            watched=group.watched(self._limit()) if group else [],
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
            data=None if group else self._limit(),
            file_size=profile.file_size,
            cpu_seconds=profile.cpu_seconds,
            processes=None if group else profile.processes,
            free=FREE,
            shared_memory=self._limit() // SHM_SHARE,
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

    def _bound(self, done: Completed, said: list[str], *, grouped: bool) -> str | None:
        """The bound that was reached, in words, or None."""
        profile = self.profile
        words = {
            "memory": f"{self._limit() >> 20} MiB of memory ({bounds.VARIABLE} can give it more)",
            "processes": f"{profile.processes} processes",
            "disk": f"{FREE >> 20} MiB that stay free where it writes",
            "cpu": f"{profile.cpu_seconds} s of processor time for a process",
            "file": f"{profile.file_size >> 20} MiB for a file",
        }
        told = next((x for x in said if x in words), None)
        if told is None and done.returncode != 0:
            told = BY_STATUS.get(done.returncode)
            output = (done.stderr or done.stdout)[-4096:].decode("utf-8", "replace")
            for bound, pattern in WITHOUT_GROUP.items():
                if told is None and not grouped and pattern.search(output):
                    told = bound
        return words[told] if told else None


def _failure(done: Completed, bound: str | None, what: str | None, log: Path | None) -> ToolError:
    status = done.returncode
    ended = f"(exit {status})" if status > 0 else f"(signal {-status})"
    said = [x for x in (done.stderr, done.stdout) if x.strip()]
    hint = f"the whole log is in {log}" if log else None
    text = f"{what or 'running ' + Path(done.argv[0]).name} failed {ended}"
    if bound is not None:
        text = f"{what or Path(done.argv[0]).name} was stopped: it reached its bound of {bound}"
        own = "look for what takes so much"
        hint = f"{own}; {hint}" if hint else own
    output = said[0][-16384:].decode("utf-8", "backslashreplace") if said else ""
    return ToolError(text, output=output, returncode=status, hint=hint)


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


def runs_i386(tree: Path) -> bool:
    """Whether the shell of ``tree`` is a program of 32 bits: EI_CLASS of elf(5)."""
    try:
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            shell = open_at(root, "bin/sh", os.O_RDONLY | os.O_NONBLOCK, links="root")
        finally:
            os.close(root)
    except OSError:
        return False
    try:
        regular = stat.S_ISREG(os.fstat(shell).st_mode)
        return regular and os.read(shell, 5) == b"\x7fELF\x01"
    finally:
        os.close(shell)


def available_memory() -> int:
    """MemAvailable of this host, in bytes (proc(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable:")), 0)


def _is_tmpfs(path: Path) -> bool:
    device = os.stat(path).st_dev  # noqa: PTH116 - the number alone
    return f"{os.major(device)}:{os.minor(device)}" in _tmpfs_devices()


def _tmpfs_devices() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {x.split()[2] for x in lines if x.partition(" - ")[2].split()[0] == "tmpfs"}
