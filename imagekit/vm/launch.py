"""Starts QEMU, with sockets to the guest's serial ports and to QEMU's machine protocol."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

from imagekit.errors import HostError
from imagekit.host import tools
from imagekit.host.confined import Confinement, new_user
from imagekit.host.kvm import DEVICE, QEMU
from imagekit.host.run import spawn
from imagekit.vm.gate import DNS, Gate, Reach
from imagekit.vm.handed import Handed
from imagekit.vm.options import option
from imagekit.vm.sockets import roomy_pair

__all__ = ["QEMU", "Line", "Started", "file_console", "start"]

START_SECONDS = 30.0
FIRST_LINE = 80
"""The first descriptor of QEMU's ends of its lines; below what is handed to it."""


@dataclass(frozen=True)
class Line:
    """A socket into the machine: the guest's next serial port, or QEMU's machine protocol (qmp).

    QEMU copies what a serial port says to ``log``.
    """

    name: str
    kind: Literal["serial", "qmp"] = "serial"
    log: Path | None = None

    def argv(self, fd: int) -> list[str]:
        """The options for it; ``fd`` is QEMU's end of the socket."""
        argv = option("-chardev", "socket", id=self.name, fd=fd, logfile=self.log)
        if self.kind == "qmp":
            return [*argv, *option("-mon", chardev=self.name, mode="control")]
        return [*argv, "-serial", f"chardev:{self.name}"]


@dataclass(frozen=True)
class Started:
    """A QEMU that was started, and our ends of its lines by their names."""

    process: subprocess.Popen[bytes]
    lines: Mapping[str, socket.socket]


@contextlib.contextmanager
def start(
    argv: Sequence[str | Path],
    lines: Sequence[Line] = (),
    *,
    scratch: Path,
    handed: Handed | None = None,
    reach: Reach | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
) -> Iterator[Started]:
    """Run ``argv``, a QEMU and its options, with ``lines``; leaving the block ends it.

    It runs as a user of its own where we are root, without capabilities, in a network with nothing
    in it but what ``reach`` names. ``handed`` has the files that ``argv`` names. QEMU's temporary
    files go to a new directory in ``scratch``, which nobody else reads. ``stderr`` takes what QEMU
    complains of, which else waits in the process's pipe. A program with a slash is looked up in
    ``cwd``. Raises HostError.
    """
    handed = handed or Handed()
    program = str(argv[0]) if "/" in str(argv[0]) else tools.require(str(argv[0]))
    uid = new_user()
    confinement = Confinement(uid, _groups(argv, uid), "none" if reach is None else "gate")
    with contextlib.ExitStack() as stack:
        ours, theirs = _pairs(lines, stack)
        words = _words(lines, handed)
        temporary = _temporary(scratch, uid)
        variables = {"TMPDIR": str(handed.directory(temporary)), **(env or {})}
        numbers = {end.fileno(): number for number, end in enumerate(theirs, FIRST_LINE)}
        numbers |= stack.enter_context(handed.opened())
        full = [program, *argv[1:], *handed.argv(), *words]
        answer, reply = socket.socketpair()
        stack.callback(answer.close)
        stack.callback(reply.close)
        tcp, udp = (reach.ports, [DNS]) if reach is not None else ([], [])
        command = confinement.argv(full, numbers=numbers, reply=reply.fileno(), tcp=tcp, udp=udp)
        fds = [*numbers, *([reply.fileno()] if tcp else [])]
        quiet = subprocess.DEVNULL
        child = stack.enter_context(
            spawn(command, env=variables, cwd=cwd, pass_fds=fds, stdout=quiet, stderr=stderr)
        )
        for end in (*theirs, reply):
            end.close()
        if reach is not None:
            sockets = _sockets(answer, child, len(tcp) + len(udp))
            stack.enter_context(Gate(reach).serving(sockets))
        yield Started(child, ours)


def _pairs(
    lines: Sequence[Line], stack: contextlib.ExitStack
) -> tuple[dict[str, socket.socket], list[socket.socket]]:
    """Our ends of ``lines`` by name, and QEMU's in their order; ``stack`` closes both."""
    ours: dict[str, socket.socket] = {}
    theirs: list[socket.socket] = []
    for line in lines:
        our, their = roomy_pair()
        stack.callback(our.close)
        stack.callback(their.close)
        ours[line.name] = our
        theirs.append(their)
    return ours, theirs


def _words(lines: Sequence[Line], handed: Handed) -> list[str | Path]:
    """QEMU's arguments for ``lines``, whose ends have the numbers from FIRST_LINE on."""
    words: list[str | Path] = []
    for number, line in enumerate(lines, FIRST_LINE):
        log = handed.log(line.log) if line.log is not None else None
        words += replace(line, log=log).argv(number)
    return words


def _groups(argv: Sequence[str | Path], uid: int | None) -> tuple[int, ...]:
    """The group that may open /dev/kvm, for a machine that needs it.

    Raises HostError where another user than root cannot be given it.
    """
    words = [str(word) for word in argv]
    if not any(a == "-accel" and b.startswith("kvm") for a, b in itertools.pairwise(words)):
        return ()
    try:
        status = DEVICE.stat()
    except OSError:
        return ()  # QEMU says so
    if uid is None or status.st_mode & 0o006 == 0o006:
        return ()
    if status.st_mode & 0o060 != 0o060 or status.st_gid == 0:
        raise HostError(
            "is open to root alone, and QEMU is run as a user of its own",
            where=str(DEVICE),
            hint=f"chgrp kvm {DEVICE} && chmod 660 {DEVICE}",
        )
    return (status.st_gid,)


def _temporary(scratch: Path, uid: int | None) -> Path:
    """A directory of QEMU's own. What it puts there is never read."""
    path = Path(tempfile.mkdtemp(prefix="qemu.", dir=scratch))
    if uid is not None:
        os.chown(path, uid, uid)
    return path


def _sockets(answer: socket.socket, child: subprocess.Popen[bytes], count: int) -> list[int]:
    """The listening sockets of the child's network; raises HostError where it could have none."""
    answer.settimeout(START_SECONDS)
    try:
        found = socket.recv_fds(answer, 1, count)[1]
    except TimeoutError:
        found = []
    if len(found) == count:
        return found
    for fd in found:
        os.close(fd)
    said = b""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(START_SECONDS)
        said = child.stderr.read(4096) if child.stderr else b""
    raise HostError(
        said.decode("utf-8", "replace").strip() or "QEMU's network cannot be made",
        hint="run imagekit as root, or allow user namespaces: sysctl -w "
        "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0",
    )


def file_console(path: Path) -> list[str]:
    """The options that write what the guest's next serial port says to ``path``."""
    return [*option("-chardev", "file", id="serial", path=path), "-serial", "chardev:serial"]
