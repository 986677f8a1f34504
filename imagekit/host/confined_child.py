"""Gives up whatever a program does not need, and becomes it; run by imagekit.host.confined.

Runs as a program of its own. Its first argument is the job as JSON, the rest is the program. It
uses nothing but the standard library and ``syscalls``. Exit status 125: the program could not be
confined.

Sources: unshare(2), user_namespaces(7), capabilities(7), netdevice(7), rtnetlink(7) and
include/uapi/linux/rtnetlink.h for the message that makes every address local (ip-route(8), type
local).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from imagekit.host import syscalls

# linux/sockios.h, linux/if.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
# linux/netlink.h, linux/rtnetlink.h
NLM_REQUEST_ACK, RTM_NEWROUTE, NLM_CREATE = 5, 24, 0x400
TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, KIND_LOCAL, RTA_OIF = 255, 4, 254, 2, 4
# linux/seccomp.h, linux/filter.h, linux/audit.h
ALLOW, ERRNO = 0x7FFF0000, 0x50000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, MACHINE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
X32 = 0x40000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Links and device nodes, which would lead whoever reads a directory that was shared with the
# program; other processes; and what holes in kernels were mostly found by: io_uring, which also
# does much of the rest unseen, namespaces, bpf, userfaultfd, perf events, keys.
# asm/unistd_64.h and asm-generic/unistd.h, in the same order.
REFUSED = {
    "x86_64": (
        *(86, 88, 133, 259, 265, 266),  # link, symlink, mknod, mknodat, linkat, symlinkat
        *(101, 310, 311),  # ptrace, process_vm_readv, process_vm_writev
        *(425, 272, 308, 321, 323, 298),  # io_uring_setup, unshare, setns, bpf, userfaultfd, perf
        *(248, 249, 250),  # add_key, request_key, keyctl
    ),
    "aarch64": (
        *(33, 36, 37),  # mknodat, symlinkat, linkat
        *(117, 270, 271),
        *(425, 97, 268, 280, 282, 241),
        *(217, 218, 219),
    ),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
BACKLOG = 64
FAILED = 125
"""Exit status of a child that could not be confined."""
ABOVE = 200
"""Descriptors from here on are no program's that we start."""


class ConfinementError(Exception):
    """The program cannot be confined."""


def leave_the_host(*, must: bool) -> None:
    """Namespaces of its own: network, IPC, host name and mounts; a user namespace if not root.

    A host may forbid them to its ordinary users, and to containers. Raises ConfinementError then
    if they ``must`` be.
    """
    flags = syscalls.NEWNET | syscalls.NEWIPC | syscalls.NEWUTS | syscalls.NEWNS
    uid, gid = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(flags if uid == 0 else flags | syscalls.NEWUSER)
        if uid != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError as error:
        if must:
            raise ConfinementError(
                f"it needs namespaces of its own, which this host forbids ({error.strerror})"
            ) from None
        return
    syscalls.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE)


def make_room(at: str, shown: dict[str, str], writable: dict[str, str], uid: int) -> None:
    """Mount a file system at ``at`` with nothing in it but what it shows, by these names.

    ``shown`` are files and block devices of whomever, which ``uid`` can read there; ``writable``
    are directories.
    """
    held = {name: os.open(path, os.O_RDONLY | os.O_NONBLOCK) for name, path in shown.items()}
    kept = {name: os.open(path, os.O_PATH) for name, path in writable.items()}
    flags = syscalls.NOSUID | syscalls.NOEXEC
    syscalls.mount("room", at, "tmpfs", flags, "mode=755,size=1m")
    for name, fd in kept.items():
        Path(at, name).mkdir()
        syscalls.mount(f"/proc/self/fd/{fd}", f"{at}/{name}", "", syscalls.BIND)
        os.close(fd)
    for name, fd in held.items():
        show(fd, f"{at}/{name}", uid)
        os.close(fd)
    syscalls.mount("", at, "", flags | syscalls.REMOUNT | syscalls.RDONLY)


def show(fd: int, target: str, uid: int) -> None:
    """The open file or block device as ``target``, which ``uid`` alone may read, and only read."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        os.mknod(target, 0o400 | stat.S_IFBLK, status.st_rdev)
        os.chown(target, uid, uid)
        return
    if not stat.S_ISREG(status.st_mode):
        raise ConfinementError("the disk is neither a file nor a block device")
    Path(target).touch(0o400)
    try:
        mount_as(fd, target, status, uid)
    except OSError as error:
        # Before Linux 5.12, and for file systems of networks, nothing is mounted in that way.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise
        Path(target).unlink()
        os.mknod(target, 0o400 | stat.S_IFBLK, loop_device(fd))
        os.chown(target, uid, uid)


def mount_as(fd: int, target: str, status: os.stat_result, uid: int) -> None:
    """Mount an open file on ``target``, read-only and as if it were ``uid``'s (idmapped)."""
    users = user_namespace(status, uid)
    tree = syscalls.copy_of(fd)
    flags = syscalls.ATTR_IDMAP | syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID
    flags |= syscalls.ATTR_NODEV | syscalls.ATTR_NOEXEC
    syscalls.set_attributes(tree, flags, recursive=False, user=users)
    syscalls.move_mount(tree, target)
    os.close(tree)
    os.close(users)


def user_namespace(status: os.stat_result, uid: int) -> int:
    """A descriptor of a user namespace in which the file's owner is ``uid``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        syscalls.unshare(syscalls.NEWUSER)
        os.write(writing, b"!")
        signal.pause()
    try:
        os.read(reading, 1)
        Path(f"/proc/{child}/uid_map").write_text(f"{status.st_uid} {uid} 1")
        Path(f"/proc/{child}/gid_map").write_text(f"{status.st_gid} {uid} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reading)
        os.close(writing)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def loop_device(fd: int) -> int:
    """The number of a read-only loop device of an open file, which goes when nobody has it open."""
    name = f"/proc/self/fd/{fd}"
    argv = ["losetup", "--read-only", "--find", "--show", name]
    done = subprocess.run(argv, capture_output=True, pass_fds=[fd], check=False)
    if done.returncode != 0:
        raise ConfinementError(f"losetup: {done.stderr.decode(errors='replace').strip()}")
    device = done.stdout.decode().strip()
    held = os.open(device, os.O_RDONLY)
    os.set_inheritable(held, True)  # noqa: FBT003 - os's; until the program ends
    subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
    return os.fstat(held).st_rdev


def every_address_is_ours() -> None:
    """Bring the loopback up and route all addresses, of IPv4 and IPv6, to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(plain, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(plain, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    index = socket.if_nametoindex("lo")
    for family in (socket.AF_INET, socket.AF_INET6):
        route = struct.pack(
            "=BBBBBBBBI", family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, KIND_LOCAL, 0
        )
        body = route + struct.pack("=HHi", 8, RTA_OIF, index)
        kind = NLM_REQUEST_ACK | NLM_CREATE
        header = struct.pack("=IHHII", 16 + len(body), RTM_NEWROUTE, kind, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
            link.bind((0, 0))
            link.send(header + body)
            answer = struct.unpack_from("=i", link.recv(4096), 16)[0]
        # Kernels without IPv6 know no such family.
        if answer != 0 and family == socket.AF_INET:
            raise OSError(-answer, f"route all addresses to lo: {os.strerror(-answer)}")


def listen(port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket that takes what goes to ``port`` of any address, IPv4's written as IPv6's."""
    try:
        made = socket.socket(socket.AF_INET6, kind | socket.SOCK_CLOEXEC)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        address = "::"
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        made = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
        address = "0.0.0.0"  # noqa: S104 - of a network that has one program in it
    made.bind((address, port))
    if kind == socket.SOCK_STREAM:
        made.listen(BACKLOG)
    return made


def hand_out(reply: int, tcp: list[int], udp: list[int]) -> None:
    """Send listening sockets of this network to whoever has the other end of ``reply``."""
    made = [listen(port, socket.SOCK_STREAM) for port in tcp]
    made += [listen(port, socket.SOCK_DGRAM) for port in udp]
    with socket.socket(fileno=reply) as channel:
        socket.send_fds(channel, [b"!"], [one.fileno() for one in made])
    for one in made:
        one.close()


def give_up(uid: int | None, groups: list[int]) -> None:
    """Become ``uid`` (None: stay who we are) with no capability, now or by a later program."""
    syscalls.drop_bounding_set()
    if uid is not None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.set_capabilities(())
    syscalls.no_new_privileges()


def refuse_calls() -> None:
    """Let the program, and whatever it starts, make none of the system calls in ``REFUSED``.

    They fail with EPERM; clone3, whose flags no filter sees, with ENOSYS, after which C libraries
    use clone, which may make no user namespace. Machines whose numbers are not here have no filter.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        return
    refused = [(EQUAL, number) for number in REFUSED[machine]]
    if machine == "x86_64":
        refused.append((AT_LEAST, X32))
    # Each step: code, how far to jump if so and if not, operand. The last four are the ends.
    tests = [*refused, (EQUAL, CLONE3), (EQUAL, CLONE[machine])]
    steps = [(LOAD, 0, 0, MACHINE_AT), (EQUAL, 1, 0, MACHINES[machine])]
    steps += [(RETURN, 0, 0, ERRNO | errno.EPERM), (LOAD, 0, 0, NUMBER_AT)]
    for place, (code, operand) in enumerate(tests):
        left = len(tests) - place - 1
        # Behind the tests: allowed, clone's flags (load, test), EPERM, ENOSYS, allowed.
        ends = {CLONE3: 4, CLONE[machine]: 1}
        steps.append((code, left + ends.get(operand, 3), 0, operand))
    steps += [
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (ANY_BIT, 0, 2, syscalls.NEWUSER),
    ]
    steps += [(RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    steps += [(RETURN, 0, 0, ALLOW)]
    syscalls.install_filter(b"".join(struct.pack("=HBBI", *step) for step in steps))


def die_with(parent: int) -> None:
    """End with the process that started us, also if it has ended already.

    A change of identity clears the signal of setpriv(1), so it is asked for again.
    """
    syscalls.die_with_parent()
    if os.getppid() != parent:
        raise ConfinementError("who started it has ended")


def renumber(numbers: list[tuple[int, int]]) -> None:
    """Give open descriptors the numbers by which the program was told of them."""
    # Out of the way first: one's own number can be another's new one.
    moved = [(fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, ABOVE), to) for ours, to in numbers]
    for ours, _theirs in numbers:
        os.close(ours)
    for ours, theirs in moved:
        os.dup2(ours, theirs)


def limit(limits: dict[str, int]) -> None:
    """Set resource limits by their names (getrlimit(2), without RLIMIT_)."""
    for name, value in {"CORE": 0, **limits}.items():
        syscalls.limit(getattr(resource, f"RLIMIT_{name}"), value)


def main() -> int:
    """Read the job, confine this process, become the program."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    argv = sys.argv[2:]
    try:
        if job["network"] != "host":
            leave_the_host(must=job["network"] == "gate" or job["room"] is not None)
        if job["room"] is not None:
            at, shown, writable = job["room"]
            make_room(at, shown, writable, job["uid"])
        if job["network"] == "gate":
            every_address_is_ours()
            hand_out(job["reply"], job["tcp"], job["udp"])
        renumber(job["numbers"])
        limit(job["limits"])
        give_up(job["uid"], job["groups"])
        die_with(job["parent"])
        refuse_calls()
        os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - no shell on purpose
    except (ConfinementError, OSError) as error:
        print(f"{Path(argv[0]).name} cannot be confined: {error}", file=sys.stderr)
        return FAILED
