"""What a process gives up before it touches bytes of strangers.

For programs that run confined: of the standard library and ``syscalls`` alone. Every step says what
the host does not allow, so that the others still count and ``imagekit doctor`` can tell. Sources:
unshare(2), pivot_root(2), user_namespaces(7), capabilities(7), prctl(2), getrlimit(2),
seccomp_init(3).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from imagekit.host import syscalls

NOBODY = 65534
"""User and group of nobody (Debian policy 9.2.2), also the overflow id of user namespaces."""

_ALL = syscalls.NEWNS | syscalls.NEWCGROUP | syscalls.NEWUTS | syscalls.NEWIPC
_ALL |= syscalls.NEWPID | syscalls.NEWNET
# statvfs(3) f_flag to mount(2) flag
_LOCKED = (
    *((2, syscalls.NOSUID), (4, syscalls.NODEV), (8, syscalls.NOEXEC)),
    *((1024, 1024), (2048, 2048), (4096, 1 << 21)),
)
_NO_SETUID_FIXUP, _NO_SETUID_FIXUP_LOCKED = 4, 8  # linux/securebits.h
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # seccomp.h: SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)

CALLS = (
    *("read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev"),
    *("pwritev2", "lseek", "_llseek"),
    *("fstat", "fstat64", "newfstatat", "statx", "close", "fcntl", "fcntl64", "ioctl", "dup"),
    *("ftruncate", "ftruncate64", "fallocate", "copy_file_range", "fadvise64", "fdatasync"),
    *("mmap", "mmap2", "munmap", "mprotect", "mremap", "madvise", "brk", "futex", "futex_time64"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigreturn", "sigaltstack"),
    *("exit", "exit_group", "restart_syscall", "getpid", "gettid", "getppid", "getuid"),
    *("geteuid", "getgid", "getegid", "clock_gettime", "clock_gettime64", "clock_getres"),
    *("gettimeofday", "time", "nanosleep", "clock_nanosleep", "getrandom", "getrusage"),
    *("getrlimit", "ugetrlimit", "sysinfo", "uname", "sched_yield", "sched_getaffinity"),
    *("poll", "ppoll", "select", "pselect6", "membarrier", "rseq", "set_robust_list"),
)
"""All that a parser asks of the kernel once its input is open. There is nothing among them that
takes a name, makes a process or a socket, or sends a signal."""

REFUSED = (
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree", "move_mount"),
    *("fsopen", "fsmount", "fsconfig", "mount_setattr", "open_by_handle_at", "name_to_handle_at"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("add_key", "request_key", "keyctl", "init_module", "finit_module", "delete_module"),
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "syslog", "acct", "quotactl"),
    *("socket", "connect", "bind", "listen", "mknod", "mknodat", "settimeofday", "adjtimex"),
)
"""What no program that reads an image needs: ways to other file systems, processes, networks, and
parts of the kernel that few use."""

_WHY_NOT = {
    errno.EPERM: "namespaces: forbidden (sysctl kernel.unprivileged_userns_clone, or "
    "kernel.apparmor_restrict_unprivileged_userns, or what runs this container)",
    errno.ENOSPC: "namespaces: no more are allowed (sysctl user.max_user_namespaces)",
}


class Missing(Exception):
    """The host does not allow a step; the text says which, and why."""


@contextmanager
def _step() -> Iterator[None]:
    """Turns what the kernel refuses into Missing."""
    try:
        yield
    except OSError as error:
        raise Missing(error.strerror or str(error)) from None


@_step()
def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2); raises Missing."""
    syscalls.mount(source, target, kind, flags, data)


def unshare() -> None:
    """New mount, process, network, IPC, host name and cgroup namespaces; raises Missing.

    Root makes them as root. Others, and a root that may not, make them in a user namespace of
    their own, as nobody in it. Processes are in the new process namespace from the next fork on.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        with suppress(OSError):
            syscalls.unshare(_ALL)
            return
        become_nobody()
        # Else /proc/self is root's after the change of identity (prctl(2)).
        with _step():
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        user, group = NOBODY, NOBODY
    try:
        syscalls.unshare(syscalls.NEWUSER | _ALL)
    except OSError as error:
        why = _WHY_NOT.get(error.errno or 0, "namespaces: this kernel has none of these")
        raise Missing(why) from None
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1\n")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1\n")
    except OSError as error:
        raise Missing(f"user namespace: {error.strerror}") from None


def bind(source: str, target: str, *, recursive: bool, writable: bool) -> None:
    """Show ``source`` at ``target`` too, read-only unless ``writable``; raises Missing."""
    mount(source, target, "", syscalls.BIND | (syscalls.REC if recursive else 0))
    if not writable:
        held = os.statvfs(target).f_flag
        # A user namespace may not take off what a mount has (mount_namespaces(7)).
        kept = sum(flag for have, flag in _LOCKED if held & have)
        mount("", target, "", syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | kept)


def fork_first() -> None:
    """Go on in a child, the first process of the new namespace, which dies with all in it.

    The caller's process waits and ends as the child does.
    """
    child = os.fork()
    if child:
        # Not what the child holds open: an end of a pipe here would keep its reader waiting.
        close_all_but(())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    die_with_parent()


def empty_root() -> None:
    """Make an empty directory that nobody can write the root; raises Missing.

    Nothing can be opened by name any more.
    """
    mount("none", "/", "", syscalls.REC | syscalls.PRIVATE)
    flags = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC
    mount("none", "/tmp", "tmpfs", flags, "size=4k,nr_inodes=1,mode=555")  # noqa: S108 - covered
    mount("", "/tmp", "", syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | flags)  # noqa: S108 - the same
    enter("/tmp")  # noqa: S108 - the same


def enter(root: str) -> None:
    """Make ``root`` the root of this process, and let go of the old one; raises Missing."""
    os.chdir(root)
    with _step():
        syscalls.pivot_root()


def become_nobody(*, keep: int | None = None) -> None:
    """User and group nobody and no other group, if we are root; with the capability ``keep`` and
    no other, which programs that are started have too."""
    if os.geteuid() != 0:
        return
    syscalls.drop_bounding_set(() if keep is None else (keep,))
    if keep is not None:
        # Else the change of identity takes all, and access(2) knows of none afterwards.
        with _step():
            bits = _NO_SETUID_FIXUP | _NO_SETUID_FIXUP_LOCKED
            syscalls.prctl(syscalls.PR_SET_SECUREBITS, bits)
    # EINVAL, EPERM: root of a container that has no such user. It still loses its capabilities.
    with suppress(OSError):
        os.setgroups([])
    with suppress(OSError):
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if keep is not None:
        with _step():
            syscalls.set_capabilities((keep,), inherited=True)
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, keep)


@_step()
def drop_capabilities() -> None:
    """All of them, from every set; raises Missing."""
    syscalls.drop_bounding_set()
    syscalls.set_capabilities(())


@_step()
def no_new_privileges() -> None:
    """No program that is started has more rights than this one; raises Missing."""
    syscalls.no_new_privileges()


@_step()
def die_with_parent() -> None:
    """Be killed when the process that forked us ends; raises Missing.

    A change of identity undoes it.
    """
    syscalls.die_with_parent()


def set_limits(limits: Mapping[int, int]) -> None:
    """Soft and hard limit of each kind of ``resource.RLIMIT_*``; a lower one stays."""
    for kind, value in limits.items():
        syscalls.limit(kind, value)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    kept = sorted({-1, *keep})
    for before, after in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        if before + 1 < after:  # of an empty range the call makes all there are
            os.closerange(before + 1, after)


class _Filter:
    """A filter of system calls, made by libseccomp while libraries can be loaded, and put on later.

    Making one raises Missing.
    """

    def __init__(self, others: int, named: int, names: Collection[str]) -> None:
        try:
            self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError:
            raise Missing("seccomp: libseccomp2 is not on this host") from None
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(others)))
        for name in names:
            number = self._library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # negative: this machine has no call of that name
                rule = (self._context, ctypes.c_uint32(named), number, 0)
                self._library.seccomp_rule_add(*rule)

    def put_on(self) -> None:
        """From now on, for this process and all it starts; raises Missing."""
        if self._library.seccomp_load(self._context) != 0:
            raise Missing(f"seccomp: {os.strerror(ctypes.get_errno())}")


class Allowed(_Filter):
    """Lets CALLS pass and answers EPERM to every other."""

    def __init__(self) -> None:
        super().__init__(_REFUSE, _ALLOW, CALLS)


class Forbidden(_Filter):
    """Answers EPERM to REFUSED and lets all others pass: for programs that are not ours."""

    def __init__(self) -> None:
        super().__init__(_ALLOW, _REFUSE, REFUSED)
