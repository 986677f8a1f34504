"""The system calls that Python has no function for.

For programs that run confined, too: of the standard library alone. Each raises OSError, whose text
says what was refused. Numbers are from the headers that the comments name.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Collection

# sys/mount.h
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2
# linux/sched.h
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
# linux/mount.h, linux/fcntl.h
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC, ATTR_IDMAP = 1, 2, 4, 8, 0x00100000
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
SECCOMP_MODE_FILTER = 2
# linux/capability.h
CAPABILITY_VERSION_3, LAST_CAPABILITY = 0x20080522, 63
# The same on every architecture: asm-generic/unistd.h.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "i686": 217, "ppc64le": 203, "riscv64": 41}

LIBC = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int | None, *arguments: int | bytes | object) -> int:
    if number is None:
        raise OSError(f"{what} is not known for {os.uname().machine}")
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(LIBC.syscall(ctypes.c_long(number), *plain), what)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(LIBC.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _checked(LIBC.setns(descriptor, kind), "setns")


def prctl(option: int, *arguments: int) -> None:
    """prctl(2) with up to four numbers."""
    full = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(LIBC.prctl(option, *full), f"prctl {option}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    arguments = [a.encode() for a in (source, target, kind)]
    result = LIBC.mount(*arguments, ctypes.c_ulong(flags), data.encode())
    _checked(result, f"mount {target}")


def open_tree(path: str, *, recursive: bool) -> int:
    """A descriptor of a copy of the mount at ``path``, attached nowhere (open_tree(2))."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    name = os.fsencode(path)
    return _syscall(f"open_tree {path}", OPEN_TREE, AT_FDCWD, name, flags)


def copy_of(descriptor: int) -> int:
    """The same of what is open as ``descriptor``."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    return _syscall("open_tree", OPEN_TREE, descriptor, b"", flags)


def move_mount(descriptor: int, target: str) -> None:
    """Attach what :func:`open_tree` gave at ``target`` (move_mount(2))."""
    _syscall(
        f"move_mount {target}",
        MOVE_MOUNT,
        *(descriptor, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
    )


def set_attributes(descriptor: int, attributes: int, *, recursive: bool, user: int = 0) -> None:
    """Add ``attributes`` to a mount (mount_setattr(2)); ``user`` goes with ATTR_IDMAP."""
    attr = _MountAttr(attributes, 0, 0, user)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attr)
    where = (descriptor, b"", flags, ctypes.byref(attr), size)
    _syscall("mount_setattr", MOUNT_SETATTR, *where)


def read_only(path: str) -> None:
    """Make the mount at ``path`` read-only, with all below it."""
    attr = _MountAttr(ATTR_RDONLY, 0, 0, 0)
    where = (AT_FDCWD, os.fsencode(path), AT_RECURSIVE, ctypes.byref(attr), ctypes.sizeof(attr))
    _syscall(f"mount_setattr {path}", MOUNT_SETATTR, *where)


def pivot_root() -> None:
    """Make the working directory the root, and let go of the old one (pivot_root(2))."""
    _syscall("pivot_root", PIVOT_ROOT.get(os.uname().machine), b".", b".")
    _checked(LIBC.umount2(b".", DETACH), "umount the old root")
    os.chdir("/")


def drop_bounding_set(kept: Collection[int] = ()) -> None:
    """Let no program that is started have a capability that is not in ``kept``."""
    for number in range(LAST_CAPABILITY + 1):
        if number not in kept and LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # EINVAL: the kernel knows no higher one; EPERM: the right to do it is gone


def set_capabilities(kept: Collection[int], *, inherited: bool = False) -> None:
    """Have ``kept`` effective and permitted, and inheritable if so ``inherited`` (capset(2))."""
    mask = sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    passed = (low, high) if inherited else (0, 0)
    data = (ctypes.c_uint32 * 6)(low, low, passed[0], high, high, passed[1])
    _checked(LIBC.capset(header, data), "capset")


def no_new_privileges() -> None:
    """No program that is started has more rights than this one."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """Be killed when the process that forked us ends. A change of identity undoes it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit(kind: int, value: int, grace: int = 0) -> None:
    """Soft limit ``value`` of ``resource.RLIMIT_*``, hard one ``grace`` above; lower ones stay."""
    _, hard = resource.getrlimit(kind)
    most = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    resource.setrlimit(kind, (min(value, most), most))


def install_filter(program: bytes) -> None:
    """Put a seccomp filter, a BPF program of 8 bytes a step, on this process (seccomp(2))."""
    kept = ctypes.create_string_buffer(program, len(program))
    described = _FilterProgram(len(program) // 8, ctypes.addressof(kept))
    address = ctypes.addressof(described)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address)
