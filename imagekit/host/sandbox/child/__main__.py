"""Reads the job from standard input, makes the sandbox, starts the program in it and waits.

Run as ``python -I -S imagekit/host/sandbox/child``, by root of the host, or by root of a user
namespace for ordinary users. Its exit status is the program's. 125: the sandbox could not be made;
126 and 127: the program could not be started, is not there.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[4]))

from imagekit.host import syscalls
from imagekit.host.sandbox.child import confine, filesystem, later
from imagekit.host.sandbox.child.job import Job, from_json


class _Made(NamedTuple):
    """What was made outside: the user namespace, its root's id outside, mounts, programs."""

    user: int | None
    owner: int
    mounts: list[filesystem.Detached]
    programs: dict[str, bytes]


SCRIPTS = Path(__file__).parent.parent
LOOK = 100
"""Milliseconds between two looks at bounds."""
SHARE = 20
"""A small file system may be filled but for this part of it."""


def main() -> int:
    """Make the sandbox; returns what it exits with."""
    job = from_json(json.load(sys.stdin))
    for descriptor in (job.report, job.net, job.user):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - its only form
    try:
        syscalls.die_with_parent()
        if os.getppid() != job.parent:
            return 125
        return _run(job)
    except (filesystem.SandboxError, OSError) as error:
        print(f"the sandbox cannot be made: {error}", file=sys.stderr)
        return 125


def _run(job: Job) -> int:
    if job.user is not None:
        confine.become_root(job.user)
    if job.later:
        ends = socket.socketpair()
        job = job._replace(asked=ends[0].detach(), asks=ends[1].detach())
    syscalls.unshare(syscalls.NEWNS)
    syscalls.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE)
    filesystem.mount_points(job)
    made = _namespace_and_mounts(job)
    for number in (1, 2):
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.fchown(number, made.owner, made.owner)  # so that /dev/stdout opens inside
    writable = {job.root, *(m.source for m in job.mounts if not m.read_only)}
    if job.mounting and made.user is not None:
        # Its processes and mounts belong to the user namespace that it runs in: one process more,
        # which enters that, while this one can still look at file systems and be told.
        start = partial(_in_user_namespace, job, made)
        job = job._replace(later=[])
    else:
        syscalls.unshare(syscalls.NEWPID)
        start = partial(_become, job, made)
    return _start_and_wait(job, start, [m.descriptor for m in made.mounts if m.source in writable])


def _namespace_and_mounts(job: Job) -> _Made:
    """Make both; says so to the parent where nothing can be idmapped."""
    programs = _programs(job)
    if not job.user_namespace:
        return _Made(None, 0, filesystem.detached(job, None), programs)
    if job.base:
        user = confine.user_namespace(job.base, job.limits.processes)
        try:
            return _Made(user, job.base, filesystem.detached(job, user), programs)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
                raise
            os.close(user)
            if job.mounting:
                # Its root could mount a /proc of its own, whose settings are root's of the host.
                raise filesystem.SandboxError(
                    f"the owners of files cannot be mapped in the file systems of {job.root} and "
                    "what is mounted there; in memory (tmpfs) that needs Linux 6.3"
                ) from None
            os.write(job.report, b"identity\n")
    user = confine.user_namespace(0, job.limits.processes)
    return _Made(user, 0, filesystem.detached(job, None), programs)


def _programs(job: Job) -> dict[str, bytes]:
    """Programs that stand for others in an empty root, by name."""
    names = ["sudo"] if job.empty else []
    if job.empty and job.mounting and job.user_namespace:
        names += ["mknod", "mount", "umount"]
    return {name: (SCRIPTS / f"{name}.sh").read_bytes() for name in names}


def _start_and_wait(job: Job, start: Callable[[int], None], written: list[int]) -> int:
    """Have a new process do ``start`` and wait for it; returns its exit status."""
    alive, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            start(alive)
        except (filesystem.SandboxError, OSError) as error:
            print(f"the sandbox cannot be made: {error}", file=sys.stderr, flush=True)
        os._exit(125)
    os.close(alive)
    return _wait(job, pid, written)


def _in_user_namespace(job: Job, made: _Made, alive: int) -> None:
    """In a process of its own: be root of the sandbox's user namespace and start it from there."""
    assert made.user is not None  # noqa: S101 - the caller asked
    _join(job)
    if job.net is not None:
        syscalls.setns(job.net, syscalls.NEWNET)  # as long as we are root of what owns it
    confine.become_root(made.user)
    _die_with(alive)
    syscalls.unshare(syscalls.NEWPID)
    inside = job._replace(join=[], watched=[], net=None)
    status = _start_and_wait(job, partial(_become, inside, made._replace(user=None, owner=0)), [])
    os._exit(status)


def _become(job: Job, made: _Made, alive: int) -> None:
    """In the first process of its process namespace: make the sandbox and become the program."""
    _join(job)
    flags = syscalls.NEWNS | syscalls.NEWIPC | syscalls.NEWUTS | syscalls.NEWCGROUP
    syscalls.unshare(flags | (syscalls.NEWNET if job.network == "none" else 0))
    if job.net is not None:
        syscalls.setns(job.net, syscalls.NEWNET)
    syscalls.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE)
    filesystem.new_root(job, made.mounts, made.owner, made.programs)
    if made.user is not None:
        confine.become_root(made.user)
    _die_with(alive)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 9)
    if job.later:
        os.dup2(job.asks, later.ASK)
        os.set_inheritable(later.ASK, True)  # noqa: FBT003 - its only form
    os.chdir(job.cwd)
    confine.drop(job.kept)
    confine.bound(job.limits)
    syscalls.no_new_privileges()
    for program in job.filters:
        syscalls.install_filter(base64.b64decode(program))
    os.environ.clear()
    os.environ.update(job.env)
    try:
        os.execvpe(job.argv[0], job.argv, job.env)  # noqa: S606 - no shell on purpose
    except OSError as error:
        print(f"{job.argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _join(job: Job) -> None:
    """Enter the control groups of the sandbox."""
    for path in job.join:
        Path(path).write_text("0")  # this process


def _die_with(alive: int) -> None:
    """End when the process that waits ends; it holds the other end of the pipe ``alive``."""
    syscalls.die_with_parent()
    poll = select.poll()
    poll.register(alive, select.POLLIN)
    if poll.poll(0):
        os._exit(125)


def _wait(job: Job, pid: int, written: list[int]) -> int:
    """Wait for the program, and end it when it reaches a bound. Returns its exit status."""
    poll = select.poll()
    program = os.pidfd_open(pid)
    poll.register(program, select.POLLIN)
    if job.later:
        os.close(job.asks)
        poll.register(job.asked, select.POLLIN)
    ended = False
    while not ended:
        ready = [descriptor for descriptor, _event in poll.poll(LOOK)]
        ended = program in ready
        if job.asked in ready:
            poll.unregister(job.asked)
            if os.read(job.asked, 1) and later.show(pid, job.later):
                os.write(job.asked, b"\n")
            os.close(job.asked)
        reached = _reached(job, written)
        if reached is not None:
            os.write(job.report, f"{reached}\n".encode())
            os.kill(pid, signal.SIGKILL)
            break
    _pid, status, used = os.wait4(pid, 0)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL and used.ru_utime + used.ru_stime >= job.limits.cpu_seconds:
        os.write(job.report, b"cpu\n")  # the first process of a namespace is not told by SIGXCPU
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _reached(job: Job, written: list[int]) -> str | None:
    """The name of a bound that the sandbox has reached."""
    for descriptor in written:
        state = os.fstatvfs(descriptor)
        if state.f_bavail < min(job.limits.free // state.f_frsize, state.f_blocks // SHARE):
            return "disk"
    for path, key, most, name in job.watched:
        with open(path) as stream:  # noqa: PTH123 - ten times a second
            for line in stream:
                if line.startswith(f"{key} ") and int(line.split()[1]) > most:
                    return name
    return None


if __name__ == "__main__":
    sys.exit(main())
