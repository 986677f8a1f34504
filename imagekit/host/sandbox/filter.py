"""The system calls that a sandbox refuses, as a BPF program made by libseccomp.

A list of what is refused: programs of packages need hundreds of calls, and new libraries new ones.
Refused is what changes mounts or namespaces, looks into other processes, or talks to parts of the
kernel that building needs nothing of and that have had holes. Calls that are newer than this list
do not exist in a sandbox.
"""

from __future__ import annotations

import errno
import functools
import struct
import tempfile
from typing import Any

from imagekit.errors import HostError

# Source of the numbers: linux/sched.h.
NEWUSER = 0x10000000
OTHER_NAMESPACES = (0x80, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000)
MOUNTS = (
    *("mount", "umount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "mount_setattr"),
)
"""Needed by those alone who make root file systems."""
REFUSED = (
    "setns",  # other namespaces
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("create_module", "get_kernel_syms", "query_module", "reboot", "swapon", "swapoff"),
    *("bpf", "perf_event_open", "userfaultfd", "fanotify_init", "lookup_dcookie", "kcmp"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl"),  # keyrings are no namespace's
    *("open_by_handle_at", "quotactl", "acct", "syslog", "nfsservctl", "_sysctl", "sysfs"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime"),
    *("iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "uselib", "vhangup"),
    *("move_pages", "migrate_pages", "mbind", "set_mempolicy"),
)
QUOTACTL_FD, FIRST_UNKNOWN = 443, 467
"""Numbers of calls that libseccomp of Debian 12 has no names for: one, and all that came after
setxattrat and its like (467 is open_tree_attr). From 424 on a call has one number on all
architectures."""
# asm-generic/ioctls.h: put input into the terminal that the user types at.
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
# linux/socket.h: unix is 1, inet 2, inet6 10, netlink 16.
REFUSED_FAMILIES = (0, *range(3, 10), *range(11, 16))
LAST_FAMILY, NETLINK, NETLINK_ROUTE = 16, 16, 0
# sys/personality.h: PER_LINUX32, UNAME26 and ADDR_NO_RANDOMIZE may be asked for; ~0 asks only.
PERSONALITIES = 0x08 | 0x0020000 | 0x0040000
TOP = 1 << 31


@functools.cache
def programs(*, mounting: bool, i386: bool) -> tuple[bytes, ...]:
    """The filters, each of struct sock_filter's of 8 bytes; raises HostError without libseccomp.

    ``i386`` allows calls of that ABI, under the same rules but one: which socket its socketcall(2)
    opens is in memory, where no filter reads it. The kernel asks all filters; the strictest holds.
    """
    return _numbers(), _named(mounting=mounting, i386=i386)


def _numbers() -> bytes:
    """Calls that have no names yet do not exist: five steps of BPF (linux/bpf_common.h)."""
    load_word, jump_if_equal, jump_if_at_least, give_back = 0x20, 0x15, 0x35, 0x06
    no_such_call, allow = 0x00050000 | errno.ENOSYS, 0x7FFF0000  # linux/seccomp.h
    steps = (
        (load_word, 0, 0, 0),  # the number, in struct seccomp_data
        (jump_if_equal, 1, 0, QUOTACTL_FD),
        (jump_if_at_least, 0, 1, FIRST_UNKNOWN),
        (give_back, 0, 0, no_such_call),
        (give_back, 0, 0, allow),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _named(*, mounting: bool, i386: bool) -> bytes:
    try:
        import seccomp
    except ImportError:
        raise HostError(
            "Python's binding of libseccomp is not on this host",
            hint="apt-get install python3-seccomp (a virtual environment sees it when made with "
            "--system-site-packages)",
        ) from None
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    # The calls of other ABIs (x32, i386) are refused like the rest.
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(errno.EPERM))
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: few steps for each call
    if i386 and made.exist_arch(seccomp.Arch.X86_64):
        made.add_arch(seccomp.Arch.X86)
    _add_calls(made, seccomp, mounting=mounting)
    _add_arguments(made, seccomp)
    with tempfile.TemporaryFile() as stream:
        made.export_bpf(stream)
        stream.seek(0)
        return stream.read()


def _add_calls(made: Any, seccomp: Any, *, mounting: bool) -> None:
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in (*REFUSED, *(() if mounting else MOUNTS)):
        _add(made, refuse, name)
    # clone3 has its flags in memory, where no filter reads them; libc then uses clone.
    _add(made, seccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in (NEWUSER, *(() if mounting else OTHER_NAMESPACES)):
        for name in ("clone", "unshare"):
            _add(made, refuse, name, _bits(seccomp, 0, flag, flag))


def _add_arguments(made: Any, seccomp: Any) -> None:
    refuse = seccomp.ERRNO(errno.EPERM)
    for command in (TIOCSTI, TIOCLINUX):
        _add(made, refuse, "ioctl", _bits(seccomp, 1, 0xFFFFFFFF, command))
    # As on a kernel without them: programs such as useradd go on.
    for family in REFUSED_FAMILIES:
        unknown = seccomp.ERRNO(errno.EAFNOSUPPORT)
        _add(made, unknown, "socket", _bits(seccomp, 0, 0xFFFFFFFF, family))
    beyond = seccomp.Arg(0, seccomp.GT, LAST_FAMILY)
    _add(made, seccomp.ERRNO(errno.EAFNOSUPPORT), "socket", beyond)
    other = seccomp.Arg(2, seccomp.NE, NETLINK_ROUTE)
    netlink = _bits(seccomp, 0, 0xFFFFFFFF, NETLINK)
    _add(made, seccomp.ERRNO(errno.EPROTONOSUPPORT), "socket", netlink, other)
    for bit in (1 << n for n in range(31)):
        if not bit & PERSONALITIES:
            _add(made, refuse, "personality", _bits(seccomp, 0, TOP | bit, bit))
        # The top bit is set in ~0 alone.
        _add(made, refuse, "personality", _bits(seccomp, 0, TOP | bit, TOP))


def _bits(seccomp: Any, argument: int, mask: int, value: int) -> Any:
    return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)


def _add(made: Any, action: int, call: str, *arguments: Any) -> None:
    import seccomp

    if seccomp.resolve_syscall(seccomp.Arch(), call) == -1:
        return  # unknown to this libseccomp, on every architecture
    made.add_rule(action, call, *arguments)
