"""Becomes a program that reads bytes of strangers; started by ``imagekit.host.program``.

The argument is JSON: what to run, the descriptors it may read and write, and its limits. The
program sees the host's programs and libraries read-only and /proc of its own processes, by which it
finds the files. It has no network, and no capability but the one to open those files, which may be
anybody's (capabilities(7): CAP_DAC_OVERRIDE, and CAP_DAC_READ_SEARCH where it only reads). Exit
status 125: it could not be started.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagekit.host import confinement, syscalls
from imagekit.host.confinement import Missing

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
SHOWN = "/shown"
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_TMP_BYTES = 64 << 20
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2  # linux/capability.h
_FAILED = 125


def _make_root(shown: str | None) -> None:
    """A root with programs and little else, below /tmp, which it covers; raises Missing."""
    root = "/tmp"  # noqa: S108 - covered by a file system of our own
    confinement.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE)
    held = {
        path: os.open(path, os.O_PATH) for path in (*_PROGRAMS, *_SETTINGS) if os.path.lexists(path)
    }
    if shown is not None:
        held[SHOWN] = os.open(shown, os.O_PATH | os.O_DIRECTORY)
    confinement.mount("none", root, "tmpfs", syscalls.NOSUID | syscalls.NODEV, "mode=755")
    for name in ("proc", "dev", "etc", "tmp"):
        Path(root, name).mkdir()
    for path, fd in held.items():
        if stat.S_ISLNK(os.lstat(path).st_mode if path != SHOWN else 0):
            Path(root + path).symlink_to(os.readlink(path))  # noqa: PTH115 - plain strings
        else:
            _place(fd, root + path, writable=False, recursive=True)
        os.close(fd)
    flags = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC
    confinement.mount("proc", f"{root}/proc", "proc", flags | syscalls.RDONLY)
    size = f"size={_TMP_BYTES},mode=1777"
    confinement.mount("none", f"{root}/tmp", "tmpfs", flags, size)  # noqa: S108 - of the new root
    for name in _DEVICES:
        fd = os.open(f"/dev/{name}", os.O_PATH)
        _place(fd, f"{root}/dev/{name}", writable=True, recursive=False)
        os.close(fd)
    Path(root, "dev/fd").symlink_to("/proc/self/fd")
    confinement.enter(root)
    flags = syscalls.RDONLY | syscalls.NOSUID | syscalls.NODEV
    confinement.mount("", "/", "", syscalls.REMOUNT | syscalls.BIND | flags)


def _place(fd: int, target: str, *, writable: bool, recursive: bool) -> None:
    """Bind what is open as ``fd`` to ``target``, which is made."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        Path(target).mkdir()
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    confinement.bind(f"/proc/self/fd/{fd}", target, recursive=recursive, writable=writable)


def _confine(job: Any) -> bool:
    """Give up what the host lets us; whether there is a root of our own."""
    rooted = False
    keep = {0, 1, 2, *job["readable"], *job["writable"]}
    confinement.close_all_but(keep)
    # What is missing, doctor tells; the rest counts all the same.
    with suppress(Missing):
        confinement.unshare()
        confinement.fork_first()
        _make_root(job["shown"])
        rooted = True
    os.umask(0o077)
    if os.geteuid() == 0:
        confinement.become_nobody(keep=_DAC_OVERRIDE if job["writable"] else _DAC_READ_SEARCH)
    else:
        confinement.drop_capabilities()
    confinement.no_new_privileges()
    confinement.die_with_parent()
    confinement.set_limits(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_AS: job["memory"],
            resource.RLIMIT_CPU: job["cpu_seconds"],
            resource.RLIMIT_FSIZE: job["file_bytes"],
            resource.RLIMIT_NOFILE: 512,
        }
    )
    return rooted


def main() -> int:
    """Confine, start the program, end as it does."""
    job = json.loads(sys.argv[1])
    rooted = _confine(job)
    child = os.fork()
    if child:
        # A first process of a namespace is not ended by its own signals: the program is no such.
        confinement.close_all_but(())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if code >= 0 else 128 - code
    with suppress(Missing):
        confinement.die_with_parent()
        confinement.Forbidden().put_on()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        argv = job["argv"]
        if not rooted and job["shown"] is not None:
            argv = [a.replace(f"{SHOWN}/", f"{job['shown']}/") for a in argv]
        os.execve(job["program"], argv, dict(os.environ))  # noqa: S606 - no shell
    except OSError as error:
        print(f"cannot start {job['program']}: {error.strerror}", file=sys.stderr)
    os._exit(_FAILED)
