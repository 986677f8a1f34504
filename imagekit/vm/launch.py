"""Starts QEMU, with sockets to the guest's serial ports and to QEMU's machine protocol."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from imagekit.host.kvm import QEMU
from imagekit.host.run import spawn
from imagekit.vm.options import option
from imagekit.vm.sockets import roomy_pair

__all__ = ["QEMU", "Line", "Started", "file_console", "start"]


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
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stderr: IO[bytes] | None = None,
) -> Iterator[Started]:
    """Run ``argv``, a QEMU and its options, with ``lines``; leaving the block ends it.

    QEMU's temporary files go to ``scratch``. ``pass_fds`` are files that ``argv`` names by number.
    ``stderr`` takes what QEMU complains of, which else waits in the process's pipe. Raises
    HostError.
    """
    with contextlib.ExitStack() as stack:
        ours: dict[str, socket.socket] = {}
        theirs: list[socket.socket] = []
        full = list(argv)
        for line in lines:
            our, their = roomy_pair()
            stack.callback(our.close)
            stack.callback(their.close)
            ours[line.name] = our
            theirs.append(their)
            full += line.argv(their.fileno())
        child = stack.enter_context(
            spawn(
                full,
                env={"TMPDIR": str(scratch), **(env or {})},
                cwd=cwd,
                pass_fds=[*(end.fileno() for end in theirs), *pass_fds],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        )
        for end in theirs:
            end.close()
        yield Started(child, ours)


def file_console(path: Path) -> list[str]:
    """The options that write what the guest's next serial port says to ``path``."""
    return [*option("-chardev", "file", id="serial", path=path), "-serial", "chardev:serial"]
