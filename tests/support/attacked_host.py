"""A host to be attacked, and the program that attacks it from where it is not to get out of.

:class:`Host` puts up what attacks are aimed at (a disk, a file, a process, sockets) and says
afterwards what of it was touched. ``attack/`` is the program; it is compiled, static, with the
places of those things.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oracles.loops import loop_device

SOURCES = Path(__file__).with_name("attack")
DISK_BYTES = 1 << 20
NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "cgroup", "net")
SETTINGS = (
    *("kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/domainname"),
    *(
        "kernel/printk",
        "kernel/sysrq",
        "fs/file-max",
        "net/ipv4/ip_forward",
        "vm/overcommit_memory",
    ),
    *("user/max_user_namespaces", "kernel/ctrl-alt-del"),
)
"""Settings of the kernel, below /proc/sys."""
LINE = re.compile(r"ATTEMPT (.+?) ([a-z0-9-]+): (failed|SUCCEEDED) ?(.*)")


@dataclass(frozen=True)
class Attempt:
    """One line of what the program says."""

    way: str
    name: str
    succeeded: bool
    detail: str


def attempts(text: str) -> list[Attempt]:
    """What the program said, among whatever else is in a log."""
    return [Attempt(m[1], m[2], m[3] == "SUCCEEDED", m[4]) for m in LINE.finditer(text)]


def successes(found: Sequence[Attempt]) -> dict[str, str]:
    """Name and detail of each attempt that succeeded."""
    return {a.name: a.detail for a in found if a.succeeded}


@dataclass
class Host:
    """What is there to be attacked, and the attack program that knows of it."""

    disk: Path
    secret: Path
    victim: subprocess.Popen[bytes]
    token: str
    port: int
    settings: dict[str, str]
    program: Path = Path()
    callers: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """The attempts of ``program WAY``."""
        text = subprocess.run([self.program, "list"], capture_output=True, text=True).stdout
        return text.split()

    def harm(self) -> list[str]:
        """What is not as it was."""
        found = [f"a caller on {caller}" for caller in self.callers]
        if self.victim.poll() is not None:
            found.append(f"the process of the host ended ({self.victim.returncode})")
        if self.disk.read_bytes() != disk_content(self.token):
            found.append("the disk of the host is changed")
        now = read_settings()
        found += [
            f"{n}: {self.settings[n]!r} became {now[n]!r}"
            for n in now
            if now[n] != self.settings[n]
        ]
        found += [
            f"a mount: {line}"
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if "attack-" in line
        ]
        found += [
            f"{p} is left on the host"
            for d in ("/", "/tmp", "/dev", "/dev/shm", "/run", "/var")
            for p in Path(d).glob("attack-*")
        ]
        left = [args for args in process_arguments() if self.daemon in args]
        return found + [f"a process was left: {args}" for args in left]

    @property
    def daemon(self) -> str:
        """By this name a process that the program left behind is found."""
        return f"left-{self.token}"


def bare_tree(host: Host, root: Path) -> Path:
    """A new tree at ``root`` with nothing in it but the program, /usr/bin/attack."""
    for name in ("etc", "usr/bin", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(host.program, root / "usr/bin/attack")
    return root


def disk_content(token: str) -> bytes:
    """What is on the disk of the host."""
    return f"the host's disk {token}\n".encode().ljust(DISK_BYTES, b"\0")


def read_settings() -> dict[str, str]:
    """The settings of the kernel that attacks aim at."""
    return {n: p.read_text() for n in SETTINGS if (p := Path("/proc/sys", n)).exists()}


def process_arguments() -> list[str]:
    """The command line of every process of the host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def file_handle(path: Path) -> tuple[int, bytes]:
    """Type and bytes of the handle of a file (name_to_handle_at(2))."""

    class Handle(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint),
            ("kind", ctypes.c_int),
            ("data", ctypes.c_ubyte * 128),
        )

    handle, mount = Handle(128, 0), ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd = -100
    argument = os.fsencode(path)
    done = libc.name_to_handle_at(at_cwd, argument, ctypes.byref(handle), ctypes.byref(mount), 0)
    if done != 0:
        return 1, bytes(8)  # no handles here: any will do, for none opens
    return handle.kind, bytes(handle.data[: handle.size])


@contextlib.contextmanager
def listeners(host: Host) -> Iterator[None]:
    """Services of the host that say the token to whoever connects, and write down who did."""
    inside = {
        "127.0.0.1": socket.socket(socket.AF_INET),
        "::1": socket.socket(socket.AF_INET6),
        f"@{host.token}": socket.socket(socket.AF_UNIX),
    }
    closing = threading.Event()

    def serve(name: str, listening: socket.socket) -> None:
        while not closing.is_set():
            with contextlib.suppress(TimeoutError):
                caller, _ = listening.accept()
                with caller, contextlib.suppress(OSError):
                    host.callers.append(name)
                    caller.sendall(host.token.encode())

    threads = []
    with contextlib.ExitStack() as stack:
        for name, listening in inside.items():
            stack.enter_context(listening)
            listening.settimeout(0.2)
            address = "\0" + name[1:] if name.startswith("@") else (name, host.port)
            with contextlib.suppress(OSError):  # a host without IPv6
                listening.bind(address)
                listening.listen()
                host.port = host.port or int(listening.getsockname()[1])
                threads.append(threading.Thread(target=serve, args=(name, listening)))
                threads[-1].start()
        try:
            yield
        finally:
            closing.set()
            for thread in threads:
                thread.join()


def facts(host: Host) -> str:
    """The header that tells the program where everything is."""
    kind, data = file_handle(host.secret)
    device = host.disk.stat().st_rdev
    text = {
        **{f"NS_{n.upper()}": str(Path(f"/proc/self/ns/{n}").readlink()) for n in NAMESPACES},
        "DISK_TOKEN": host.token,
        "SECRET_PATH": str(host.secret),
        "SECRET_TOKEN": host.token,
        "ENVIRONMENT_TOKEN": f"environment-{host.token}",
        "VICTIM_NAME": f"victim-{host.token}",
        "NET_TOKEN": host.token,
        "ABSTRACT_NAME": host.token,
        "DAEMON_NAME": host.daemon,
    }
    numbers = {
        "DISK_MAJOR": os.major(device),
        "DISK_MINOR": os.minor(device),
        "VICTIM_PID": host.victim.pid,
        "VICTIM_PORT": host.port,
        "HANDLE_SIZE": len(data),
        "HANDLE_TYPE": kind,
        "HANDLE_BYTES": "{" + ",".join(map(str, data)) + "}",
    }
    lines = [f'#define {name} "{value}"' for name, value in text.items()]
    return "\n".join([*lines, *(f"#define {n} {v}" for n, v in numbers.items()), ""])


def compile_attack(host: Host, directory: Path) -> Path:
    """The program, for ``host``, in ``directory``."""
    (directory / "facts.h").write_text(facts(host))
    target = directory / "attack"
    argv: list[str | Path] = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror"]
    argv += ["-Wno-unused-result", "-I", directory, "-I", SOURCES, "-o", target]
    sources = [SOURCES / f"{name}.c" for name in ("attack", "doors", "holes", "reaches", "bombs")]
    subprocess.run([*argv, *sources], check=True)
    return target


@contextlib.contextmanager
def attacked_host(directory: Path) -> Iterator[Host]:
    """A host with everything that the program aims at; needs root, for a disk.

    Its variables of the environment are those of this process, and one more.
    """
    token = secrets.token_hex(8)
    secret = directory / "secret"
    secret.write_text(f"{token}\n")
    secret.chmod(0o600)
    victim = [f"victim-{token}", "1000000"]
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(loop_device(directory / "disk", DISK_BYTES))
        disk.write_bytes(disk_content(token))
        process = stack.enter_context(subprocess.Popen(victim, executable="/bin/sleep"))
        stack.callback(process.kill)
        host = Host(disk, secret, process, token, 0, read_settings())
        stack.enter_context(listeners(host))
        host.program = compile_attack(host, directory)
        os.environ["HOSTILE_TOKEN"] = f"environment-{token}"
        stack.callback(os.environ.pop, "HOSTILE_TOKEN")
        yield host
