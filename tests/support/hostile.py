"""A program that tries to get out of where it runs, and tells how each try ended.

It is run inside a sandbox by the host's Python, and prints a JSON object: the name of the try, and
0 when it worked, else the number of the error. Numbers of system calls are those of x86-64
(arch/x86/entry/syscalls/syscall_64.tbl).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

PROGRAM = r'''
import ctypes, errno, json, os, signal, socket, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
done = {}

def call(name, number, *arguments):
    ctypes.set_errno(0)
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *plain)
    done[name] = ctypes.get_errno() if result == -1 else 0
    return result

def attempt(name, function):
    try:
        function()
        done[name] = 0
    except OSError as error:
        done[name] = error.errno

def in_child(name, function):
    """A try that may change or end the process that makes it."""
    ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        attempt(name, function)
        os.write(ends[1], str(done[name]).encode())
        os._exit(0)
    os.close(ends[1])
    done[name] = int(os.read(ends[0], 9) or b"255")
    os.waitpid(pid, 0)

def raw(number, *arguments):
    def function():
        ctypes.set_errno(0)
        plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        if libc.syscall(ctypes.c_long(number), *plain) == -1:
            raise OSError(ctypes.get_errno(), "")
    return function

def write(path):
    def function():
        with open(path, "r+b", buffering=0) as stream:
            stream.write(b"1")
    return function

def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []

def read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(64).hex()
    except OSError:
        return ""

status = dict(x.split(":", 1) for x in open("/proc/self/status").read().splitlines())
seen = {
    "firmware": listed("/sys/firmware"),
    "debug": listed("/sys/kernel/debug"),
    "dev": listed("/dev"),
    "root of 1": listed("/proc/1/root"),
    "own root": listed("/"),
    "pids": [x for x in os.listdir("/proc") if x.isdigit()],
    "kcore": read("/proc/kcore"),
    "keys": read("/proc/keys"), "timer_list": read("/proc/timer_list"),
    "kallsyms": read("/proc/kallsyms"), "iomem": read("/proc/iomem"),
    "uid_map": open("/proc/self/uid_map").read().split(),
    "capabilities": [status[f"Cap{x}"].strip() for x in ("Prm", "Eff", "Bnd", "Inh", "Amb")],
    "no_new_privs": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
    "interfaces": [x.split(":")[0].strip() for x in open("/proc/net/dev").read().splitlines()[2:]],
    "unix sockets": len(open("/proc/net/unix").read().splitlines()) - 1,
    "namespaces": {x: os.readlink(f"/proc/self/ns/{x}")
                   for x in ("mnt", "pid", "ipc", "uts", "cgroup", "net", "user")},
    "cgroup": open("/proc/self/cgroup").read(),
}

buffer = ctypes.create_string_buffer(4096)

for name, number, arguments in (
    ("mount", 165, (b"x", b"/tmp", b"tmpfs", 0, 0)),
    ("bind", 165, (b"/proc", b"/tmp", 0, 4096, 0)),
    ("remount", 165, (0, b"/usr", 0, 4096 | 32, 0)),
    ("umount", 166, (b"/proc/sys", 2)),
    ("pivot_root", 155, (b"/tmp", b"/tmp")),
    ("open_tree", 428, (-100, b"/", 1)),
    ("move_mount", 429, (-1, b"", -1, b"", 4)),
    ("fsopen", 430, (b"tmpfs", 0)),
    ("fsconfig", 431, (-1, 0, 0, 0, 0)),
    ("fsmount", 432, (-1, 0, 0)),
    ("fspick", 433, (-100, b"/", 0)),
    ("mount_setattr", 442, (-100, b"/", 0, buffer, 32)),
    ("open_tree_attr", 467, (-100, b"/", 1, buffer, 32)),
    ("ptrace", 101, (0, 0, 0, 0)),
    ("process_vm_readv", 310, (1, buffer, 1, buffer, 1, 0)),
    ("process_vm_writev", 311, (1, buffer, 1, buffer, 1, 0)),
    ("pidfd_getfd", 438, (-1, 0, 0)),
    ("process_madvise", 440, (-1, 0, 0, 0, 0)),
    ("kcmp", 312, (1, 1, 0, 0, 0)),
    ("kexec_load", 246, (0, 0, 0, 0)),
    ("kexec_file_load", 320, (-1, -1, 0, 0, 0)),
    ("init_module", 175, (buffer, 8, b"")),
    ("finit_module", 313, (-1, b"", 0)),
    ("delete_module", 176, (b"x", 0)),
    ("bpf", 321, (0, buffer, 64)),
    ("perf_event_open", 298, (buffer, 0, -1, -1, 0)),
    ("userfaultfd", 323, (0,)),
    ("io_uring_setup", 425, (1, buffer)),
    ("io_uring_enter", 426, (-1, 0, 0, 0, 0, 0)),
    ("io_uring_register", 427, (-1, 0, 0, 0)),
    ("keyctl", 250, (0, -3, 1)),
    ("add_key", 248, (b"user", b"x", b"x", 1, -3)),
    ("request_key", 249, (b"user", b"x", 0, 0)),
    ("open_by_handle_at", 304, (-100, buffer, 0)),
    ("fanotify_init", 300, (0, 0)),
    ("swapon", 167, (b"/tmp", 0)),
    ("swapoff", 168, (b"/tmp",)),
    ("settimeofday", 164, (buffer, 0)),
    ("clock_settime", 227, (0, buffer)),
    ("clock_adjtime", 305, (0, buffer)),
    ("adjtimex", 159, (buffer,)),
    ("syslog", 103, (3, buffer, 4096)),
    ("acct", 163, (b"/tmp/acct",)),
    ("quotactl", 179, (0, b"/", 0, 0)),
    ("quotactl_fd", 443, (-1, 0, 0, 0)),
    ("iopl", 172, (3,)),
    ("ioperm", 173, (0, 8, 1)),
    ("lookup_dcookie", 212, (0, buffer, 64)),
    ("vhangup", 153, ()),
    ("clone3", 435, (buffer, 88)),
    ("setns", 308, (os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)),
    ("reboot", 169, (0xfee1dead, 672274793, 0, 0)),
    ("TIOCSTI", 16, (0, 0x5412, b"x")),
    ("TIOCSTI, upper bits set", 16, (0, 0xffffffff00005412, b"x")),
    ("TIOCLINUX", 16, (0, 0x541c, b"x")),
    ("future call", 590, ()),
    ("x32 mount", 0x40000000 | 165, (b"x", b"/tmp", b"tmpfs", 0, 0)),
    ("x32 getpid", 0x40000000 | 39, ()),
    ("personality: read implies exec", 135, (0x0400000,)),
    ("personality: page zero", 135, (0x0100000,)),
    ("personality: all but one", 135, (0xfffffffe,)),
):
    call(name, number, *arguments)
for name, flag in (
    ("NEWNS", 0x20000), ("NEWCGROUP", 0x02000000), ("NEWUTS", 0x04000000),
    ("NEWIPC", 0x08000000), ("NEWUSER", 0x10000000), ("NEWPID", 0x20000000),
    ("NEWNET", 0x40000000), ("NEWTIME", 0x80), ("NEWUSER and NEWNS", 0x10020000),
):
    in_child(f"unshare {name}", raw(272, flag))
    if name == "NEWTIME":
        continue  # no flag of clone(2)
    def cloned():
        pid = libc.syscall(ctypes.c_long(56), ctypes.c_long(flag | 17), *[ctypes.c_long(0)] * 4)
        if pid == 0:
            os._exit(0)
        if pid < 0:
            raise OSError(ctypes.get_errno(), "")
        os.waitpid(pid, 0)
    in_child(f"clone {name}", cloned)
for name, family, kind, protocol in (
    ("packet", 17, socket.SOCK_RAW, 0), ("vsock", 40, 1, 0), ("alg", 38, 5, 0),
    ("bluetooth", 31, 3, 0), ("can", 29, 3, 1), ("ax25", 3, 5, 0), ("x25", 9, 5, 0),
    ("key", 15, 3, 2), ("rds", 21, 5, 0), ("tipc", 30, 1, 0), ("xdp", 44, 3, 0),
    ("netlink kobject", 16, 3, 15), ("netlink audit", 16, 3, 9), ("netlink generic", 16, 3, 16),
    ("netlink netfilter", 16, 3, 12), ("netlink crypto", 16, 3, 21), ("inet raw", 2, 3, 1),
    ("upper bits set", 0x2600000000 | 38, 5, 0),
):
    call(f"socket {name}", 41, family, kind, protocol)
for name, mode, device in (
    ("disk", 0o060600, os.makedev(254, 0)), ("loop", 0o060600, os.makedev(7, 0)),
    ("mem", 0o020600, os.makedev(1, 1)), ("null", 0o020600, os.makedev(1, 3)),
    ("console", 0o020600, os.makedev(5, 1)),
):
    attempt(f"mknod {name}", lambda: os.mknod(f"{WHERE}/{name}", mode, device))
    attempt(f"mknod {name} in /dev", lambda: os.mknod(f"/dev/x{name}", mode, device))
for path in (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/net/ipv4/ip_forward",
    "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/power/state",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/block/loop0/queue/nomerges",
    "/sys/module/kernel/parameters/panic", "/proc/bus/pci/00/00.0", "/dev/mem", "/dev/kmsg",
    "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/fuse", "/dev/kvm", "/dev/net/tun",
    "/usr/bin/env", "/etc/passwd",
):
    attempt(f"write {path}", write(path))
attempt("setuid to an id of no tree", lambda: os.setuid(70000))

print(json.dumps({"tries": done, "seen": seen}))
'''
"""``WHERE`` is a writable directory; it comes before this text."""


MOUNTING = {
    *("mount", "bind", "remount", "umount", "pivot_root", "open_tree", "fsopen", "fspick"),
    *("mount_setattr", "unshare NEWNS", "unshare NEWCGROUP", "unshare NEWUTS", "unshare NEWIPC"),
    *("unshare NEWPID", "unshare NEWNET", "unshare NEWTIME", "clone NEWNS", "clone NEWCGROUP"),
    *("clone NEWUTS", "clone NEWIPC", "clone NEWPID", "clone NEWNET"),
}
"""Tries that work where root file systems are made, in namespaces that are gone afterwards."""


def program(where: str) -> list[str]:
    """The arguments that run it, for a sandbox in which ``where`` is writable."""
    return ["/usr/bin/python3", "-I", "-c", f"WHERE = {where!r}\n{PROGRAM}"]


def told(output: bytes) -> tuple[Mapping[str, int], Mapping[str, object]]:
    """What the program printed: how each try ended, and what it saw."""
    value = json.loads(output)
    return value["tries"], value["seen"]


def namespaces() -> dict[str, str]:
    """The namespaces of this process, as the program names them."""
    names = ("mnt", "pid", "ipc", "uts", "cgroup", "net", "user")
    argv = ["readlink", *(f"/proc/self/ns/{name}" for name in names)]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(names, lines, strict=True))
