"""The file system of a sandbox: first the mounts, made outside, then the root that they go to."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from imagekit.host import syscalls
from imagekit.host.sandbox.child.job import Job

BASE = "/proc"
"""Where the new root is mounted until it is the root: a directory that every process may enter."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
FIXED = ("proc", "sys", "dev", "run", "tmp")
# Kernel settings that are root's to write, whatever its capabilities (proc(5)).
SETTINGS = ("sys", "irq", "bus", "fs", "mtrr")
# What tells of the host or acts on it: memory, log, keys, timers, interrupts, its devices.
MASKED = (
    *("proc/kcore", "proc/keys", "proc/key-users", "proc/kmsg", "proc/timer_list"),
    *("proc/timer_stats", "proc/sched_debug", "proc/latency_stats", "proc/sysrq-trigger"),
    *("proc/kallsyms", "proc/kpagecount", "proc/kpageflags", "proc/kpagecgroup", "proc/iomem"),
    *("proc/ioports", "proc/vmallocinfo", "proc/slabinfo", "proc/acpi", "proc/scsi"),
    *("proc/asound", "proc/interrupts", "proc/softirqs", "proc/diskstats", "proc/partitions"),
    *("sys/firmware", "sys/kernel/debug", "sys/kernel/tracing", "sys/kernel/security"),
    *("sys/fs/bpf", "sys/fs/cgroup", "sys/fs/pstore", "sys/fs/fuse", "sys/fs/selinux"),
    *("sys/hypervisor", "sys/devices/virtual/powercap", "sys/kernel/notes", "sys/kernel/btf"),
)


class Detached(NamedTuple):
    """A mount that is nowhere yet: where it is to go, what it shows, its descriptor."""

    target: str
    source: str
    descriptor: int


class SandboxError(Exception):
    """The sandbox cannot be made."""


def real_directory(root: str, path: str) -> str:
    """``path`` below ``root`` as a real directory, made where missing; refuses links."""
    current = root
    for part in [p for p in path.split("/") if p]:
        current = f"{current}/{part}"
        try:
            mode = os.lstat(current).st_mode
        except FileNotFoundError:
            Path(current).mkdir(mode=0o755)
            continue
        if not stat.S_ISDIR(mode):
            raise SandboxError(f"/{part} of {path} in the tree is not a directory")
    return current


def mount_point(root: str, target: str, *, directory: bool) -> None:
    """Have ``target`` below ``root`` as a directory, or as a file, to mount on."""
    parent, _, name = target.rpartition("/")
    above = real_directory(root, parent)
    inside = f"{above}/{name}"
    if directory:
        real_directory(above, name)
    elif not os.path.lexists(inside):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    elif not stat.S_ISREG(os.lstat(inside).st_mode):
        raise SandboxError(f"{target} in the tree is not a file")


def mount_points(job: Job) -> None:
    """Make what is mounted on, where that lies in a tree: seen from outside, owners are as on disk.

    Raises SandboxError for a link on the way.
    """
    holders = [] if job.empty else [("", job.root)]
    if not job.empty:
        for name in FIXED:
            real_directory(job.root, name)
    for mount in job.mounts:
        directory = os.path.isdir(mount.source)  # noqa: PTH112 - plain strings throughout
        for above, source in reversed(holders):
            if mount.target.startswith(f"{above}/"):
                mount_point(source, mount.target[len(above) :], directory=directory)
                break
        if directory:
            holders.append((mount.target, mount.source))


def detached(job: Job, user: int | None) -> list[Detached]:
    """The mounts of ``job``, not attached yet; the tree is first.

    ``user`` is a user namespace for those that are to be idmapped. Raises OSError, with EINVAL
    where the file system cannot be.
    """
    found = []
    tree = [] if job.empty else [(job.root, "", False, True)]
    for source, target, read_only, mapped in [*tree, *job.mounts]:
        descriptor = syscalls.open_tree(source, recursive=job.recursive)
        attributes = syscalls.ATTR_NODEV if job.user_namespace else 0
        attributes |= syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID if read_only else 0
        if attributes:
            syscalls.set_attributes(descriptor, attributes, recursive=job.recursive)
        if mapped and user is not None:
            attributes = syscalls.ATTR_IDMAP
            syscalls.set_attributes(descriptor, attributes, recursive=False, user=user)
        found.append(Detached(target, source, descriptor))
    return found


def device(source: str, target: str) -> None:
    """The device ``source`` at ``target``: a node, so that binds of /dev show it, or a mount.

    A user namespace makes no nodes.
    """
    try:
        os.mknod(target, 0o666 | stat.S_IFCHR, os.stat(source).st_rdev)  # noqa: PTH116
        Path(target).chmod(0o666)
    except PermissionError:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        syscalls.mount(source, target, "", syscalls.BIND)


def _devices(root: str, memory: str) -> None:
    syscalls.mount("dev", f"{root}/dev", "tmpfs", syscalls.NOSUID, f"mode=755,size=1m{memory}")
    for name in DEVICES:
        device(f"/dev/{name}", f"{root}/dev/{name}")
    for name in ("pts", "shm"):
        Path(f"{root}/dev/{name}").mkdir()
    options = "newinstance,ptmxmode=0666,mode=620"
    syscalls.mount("devpts", f"{root}/dev/pts", "devpts", syscalls.NOSUID, options)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        Path(f"{root}/dev/{name}").symlink_to(target)


def _sysfs(root: str, *, shown: bool) -> None:
    flags = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC | syscalls.RDONLY
    if not shown:
        syscalls.mount("sys", f"{root}/sys", "tmpfs", flags, "mode=755,size=4k")
        return
    try:
        syscalls.mount("sysfs", f"{root}/sys", "sysfs", flags)
    except OSError:
        # A user namespace that shares the host's network may not have a sysfs of its own; the
        # host's is closed to it by permissions.
        syscalls.mount("/sys", f"{root}/sys", "", syscalls.BIND | syscalls.REC)
        syscalls.read_only(f"{root}/sys")


def kernel_file_systems(root: str, job: Job, owner: int) -> None:
    """/proc, /sys, /dev and /run of the new root; what is in memory belongs to ``owner``."""
    quiet = syscalls.NOSUID | syscalls.NODEV
    memory = f",uid={owner},gid={owner}"
    size = f"{memory},size={job.limits.shared_memory}"
    syscalls.mount("proc", f"{root}/proc", "proc", quiet | syscalls.NOEXEC)
    _sysfs(root, shown=job.sysfs)
    _devices(root, memory)
    syscalls.mount("shm", f"{root}/dev/{'shm'}", "tmpfs", quiet, f"mode=1777{size}")
    syscalls.mount("run", f"{root}/run", "tmpfs", quiet, f"mode=755{size}")
    for name in SETTINGS:
        path = f"{root}/proc/{name}"
        if os.path.lexists(path):
            syscalls.mount(path, path, "", syscalls.BIND | (syscalls.REC if job.recursive else 0))
            syscalls.read_only(path)
    for name in MASKED:
        path = f"{root}/{name}"
        if os.path.isdir(path):  # noqa: PTH112 - plain strings throughout
            flags = quiet | syscalls.NOEXEC | syscalls.RDONLY
            syscalls.mount("masked", path, "tmpfs", flags, "mode=000,size=4k")
        elif os.path.lexists(path):
            syscalls.mount(f"{root}/dev/null", path, "", syscalls.BIND)


def empty_root(job: Job, owner: int, programs: dict[str, bytes]) -> None:
    """A root in memory at :data:`BASE`: links, the usual directories, ``programs`` by name."""
    memory = f"mode=755,uid={owner},gid={owner},size={job.limits.shared_memory}"
    syscalls.mount("root", BASE, "tmpfs", syscalls.NOSUID | syscalls.NODEV, memory)
    for path, target in job.links:
        Path(f"{BASE}{path}").symlink_to(target)
    for name in (*FIXED, "imagekit/bin"):
        real_directory(BASE, name)
    for name, content in programs.items():
        program = Path(BASE, "imagekit/bin", name)
        program.write_bytes(content)
        program.chmod(0o755)


def _usual_directories(owner: int) -> None:
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("var", 0o755)):
        # One of them may be there: imagekit itself can lie below /root.
        path = Path(BASE, name)
        path.mkdir(mode=mode, exist_ok=True)
        path.chmod(mode)
        os.chown(path, owner, owner)
    temporary = Path(BASE, "var/tmp")
    if temporary.is_dir():  # imagekit itself, or an element, lies below it
        temporary.chmod(0o1777)
    else:
        temporary.symlink_to("/tmp")  # noqa: S108 - of the new root


def new_root(job: Job, mounts: list[Detached], owner: int, programs: dict[str, bytes]) -> None:
    """Make the whole root and have it as the root of this process."""
    os.umask(0o022)
    rest = mounts
    if job.empty:
        empty_root(job, owner, programs)
    else:
        syscalls.move_mount(mounts[0].descriptor, BASE)
        rest = mounts[1:]
    for name in FIXED:
        if not stat.S_ISDIR(os.lstat(f"{BASE}/{name}").st_mode):
            raise SandboxError(f"/{name} in the tree is not a directory")
    kernel_file_systems(BASE, job, owner)
    for target, _source, descriptor in rest:
        try:
            if job.empty:
                mount_point(BASE, target, directory=stat.S_ISDIR(os.fstat(descriptor).st_mode))
            syscalls.move_mount(descriptor, f"{BASE}{target}")
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            raise SandboxError(f"{target} cannot be mounted on: {error.strerror}") from None
    if job.empty:
        _usual_directories(owner)
    os.chdir(BASE)
    syscalls.pivot_root()
