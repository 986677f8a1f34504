"""Makes the file system of a sandbox and becomes the program in it; run by imagekit.host.sandbox.

Runs as a program of its own, first process of new mount, PID and IPC namespaces (and as root of a
user namespace for ordinary users). Standard input holds the job as JSON. It uses nothing but the
standard library. Exit status 125: the sandbox could not be made.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

# sys/mount.h
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
DETACH = 2
# statvfs(3) f_flag to mount(2) flag: flags that a user namespace may not take off.
LOCKED = ((2, NOSUID), (4, NODEV), (8, NOEXEC), (1024, 1024), (2048, 2048), (4096, 1 << 21))
CAPBSET_DROP = 24  # linux/prctl.h
LAST_CAPABILITY = 63
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Kernel settings that are root's to write, whatever its capabilities (proc(5)).
PROC_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "asound", "mtrr")
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "i686": 217}

LIBC = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """The sandbox cannot be made."""


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2); raises SandboxError."""
    arguments = [a.encode() for a in (source, target, kind)]
    if LIBC.mount(*arguments, ctypes.c_ulong(flags), data.encode()) != 0:
        raise SandboxError(f"mount {target}: {os.strerror(ctypes.get_errno())}")


def bind(source: str, target: str, *, recursive: bool, read_only: bool) -> None:
    """Bind ``source`` on ``target``, read-only when asked."""
    mount(source, target, "", BIND | (REC if recursive else 0))
    if read_only:
        held = os.statvfs(target).f_flag
        flags = sum(flag for have, flag in LOCKED if held & have)
        mount("", target, "", REMOUNT | BIND | RDONLY | flags)


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


def place(root: str, source: str, target: str, *, recursive: bool, read_only: bool) -> None:
    """Bind the host's ``source`` (file or directory) to ``target`` in the new root."""
    parent, _, name = target.rpartition("/")
    directory = real_directory(root, parent)
    inside = f"{directory}/{name}"
    if os.path.isdir(source):  # noqa: PTH112 - plain strings throughout
        real_directory(directory, name)
    elif not os.path.lexists(inside):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    bind(source, inside, recursive=recursive, read_only=read_only)


def device(source: str, target: str) -> None:
    """The device ``source`` at ``target``: a node, so that binds of /dev show it, or a mount.

    A user namespace makes no nodes.
    """
    try:
        os.mknod(target, 0o666 | stat.S_IFCHR, os.stat(source).st_rdev)  # noqa: PTH116
        Path(target).chmod(0o666)
    except PermissionError:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        bind(source, target, recursive=False, read_only=False)


def kernel_file_systems(root: str, *, recursive: bool) -> None:
    """/proc, /sys, /dev and /run of the new root."""
    for name in ("proc", "sys", "dev", "run", "tmp"):
        real_directory(root, name)
    mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    for name in PROC_SETTINGS:
        path = f"{root}/proc/{name}"
        if os.path.lexists(path):
            bind(path, path, recursive=recursive, read_only=True)
    for name in ("kcore", "kmsg", "keys", "timer_list"):
        if os.path.lexists(f"{root}/proc/{name}"):
            bind("/dev/null", f"{root}/proc/{name}", recursive=False, read_only=False)
    try:
        mount("sysfs", f"{root}/sys", "sysfs", NOSUID | NODEV | NOEXEC | RDONLY)
    except SandboxError:
        # A user namespace that shares the host's network may not have a sysfs of its own; the
        # host's is closed to it by permissions.
        bind("/sys", f"{root}/sys", recursive=True, read_only=True)
    mount("dev", f"{root}/dev", "tmpfs", NOSUID, "mode=755,size=1m")
    for name in DEVICES:
        device(f"/dev/{name}", f"{root}/dev/{name}")
    for name in ("pts", "shm"):
        Path(f"{root}/dev/{name}").mkdir()
    mount("devpts", f"{root}/dev/pts", "devpts", NOSUID, "newinstance,ptmxmode=0666,mode=620")
    mount("shm", f"{root}/dev/{'shm'}", "tmpfs", NOSUID | NODEV, "mode=1777")
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        Path(f"{root}/dev/{name}").symlink_to(target)
    mount("run", f"{root}/run", "tmpfs", NOSUID | NODEV, "mode=755")


def host_programs(root: str, paths: list[str], *, recursive: bool) -> None:
    """An empty root with the host's programs, read-only, and a sudo that is none."""
    mount("root", root, "tmpfs", NOSUID | NODEV, "mode=755")
    for path in paths:
        if os.path.islink(path) and os.path.isdir(path):  # noqa: PTH112, PTH114 - plain strings
            Path(f"{root}{path}").symlink_to(os.readlink(path))  # noqa: PTH115
        else:
            place(root, path, path, recursive=recursive, read_only=True)
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("var", 0o755)):
        # One of them may be there: imagekit itself can lie below /root.
        Path(f"{root}/{name}").mkdir(mode=mode, exist_ok=True)
        Path(f"{root}/{name}").chmod(mode)
    temporary = Path(f"{root}/var/tmp")  # noqa: S108 - of the new root
    if temporary.is_dir():  # imagekit itself, or an element, lies below it
        temporary.chmod(0o1777)
    else:
        temporary.symlink_to("/tmp")  # noqa: S108
    programs = real_directory(root, "imagekit/bin")
    sudo = Path(__file__).parent / "sudo.sh"
    target = Path(programs) / "sudo"
    target.write_bytes(sudo.read_bytes())
    target.chmod(0o755)


def enter(root: str) -> None:
    """Make ``root`` the root of this process, and let go of the old one (pivot_root(2))."""
    os.chdir(root)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise SandboxError(f"pivot_root is not known for {os.uname().machine}")
    if LIBC.syscall(number, b".", b".") != 0:
        raise SandboxError(f"pivot_root: {os.strerror(ctypes.get_errno())}")
    if LIBC.umount2(b".", DETACH) != 0:
        raise SandboxError(f"umount the old root: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")


def drop(kept: list[int]) -> None:
    """Take every capability but ``kept`` from the bounding set; execve(2) then loses them."""
    for number in range(LAST_CAPABILITY + 1):
        if number not in kept and LIBC.prctl(CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # EINVAL: the kernel knows no higher capability


def main() -> int:
    """Read the job, make the sandbox, become the program."""
    job: dict[str, Any] = json.load(sys.stdin)
    root, recursive = job["root"], job["recursive"]
    os.umask(0o022)
    try:
        mount("none", "/", "", REC | PRIVATE)
        if job["host"] is not None:
            host_programs(root, job["host"], recursive=recursive)
        else:
            mount(root, root, "", BIND | (REC if recursive else 0))
        # The mount is reached anew by its path: the old handle shows what lies beneath it.
        kernel_file_systems(root, recursive=recursive)
        for key, read_only in (("writable", False), ("read_only", True)):
            for source, target in job[key]:
                place(root, source, target, recursive=recursive, read_only=read_only)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 9)
        enter(root)
        os.chdir(job["cwd"])
        drop(job["kept"])
        os.environ.clear()
        os.environ.update(job["env"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])  # noqa: S606 - no shell on purpose
    except (SandboxError, OSError) as error:
        print(f"the sandbox cannot be made: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
