"""Runs inside the lab's dom0: starts and ends a guest by xl, or by virsh and libvirtd.

Where there is libvirt, libvirtd runs already (``init.sh``). A guest's console is read by ``virsh
console`` there, so that a guest whose login is seen has shown that this works, too.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

LIBVIRT_LOGS = Path("/var/log/libvirt")
UNPACK = Path("/usr/lib/imagekit/unpack.so")
"""Lets the host unpack kernels for xl (``unpack.c``)."""

CONNECT = ("--connect", "xen:///system")
BANNER = b"Escape character is"
"""Begins the line after which virsh console copies what the guest says (tools/virsh-domain.c)."""

CONSOLE_TIMEOUT = 60.0
Call = Callable[..., "tuple[int, str]"]
"""Runs a program and gives its exit status and output."""


class Xl:
    """xl, whose program is ``path``."""

    log = "xl.log"

    def __init__(self, path: str, call: Call) -> None:
        self._path = path
        self._call = call

    def create(self, config: Path, timeout: float) -> tuple[int, str]:
        """Start the domain of ``config``, paused."""
        argv = [self._path, "-vvv", "create", "-p", str(config)]
        env = {"LD_PRELOAD": str(UNPACK)} if UNPACK.exists() else {}
        return self._call(argv, timeout=timeout, env=env, merged=True)

    def unpause(self, domid: int) -> None:
        """Let the domain run."""
        self._call([self._path, "unpause", str(domid)])

    def evidence(self, domid: int) -> tuple[str, str]:
        """What xl knows of the domain, and the name of the file that is to hold it."""
        return self._call([self._path, "list", "-l", str(domid)])[1], "domain.json"

    def destroy(self, domid: int) -> None:
        """End the domain."""
        self._call([self._path, "destroy", str(domid)])

    def forget(self) -> None:
        """Nothing: xl keeps nothing of a domain that has ended."""


class Libvirt:
    """virsh, for the domain called ``name``."""

    log = "virsh.log"

    def __init__(self, name: str, call: Call) -> None:
        self._name = name
        self._call = call

    def create(self, config: Path, timeout: float) -> tuple[int, str]:
        """Define and start the domain, paused."""
        status, text = self._virsh("define", str(config))
        if status != 0:
            return status, text
        status, more = self._virsh("start", "--paused", self._name, timeout=timeout)
        return status, text + more

    def unpause(self, _domid: int) -> None:
        """Let the domain run."""
        self._virsh("resume", self._name)

    def console(self) -> int:
        """A file descriptor that says what ``virsh console`` does; OSError when that fails."""
        ours, theirs = pty.openpty()
        argv = ["virsh", *CONNECT, "console", "--force", self._name]
        subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        said, deadline = b"", time.monotonic() + CONSOLE_TIMEOUT
        while BANNER not in said or not said.endswith(b"\n"):
            ready, _w, _x = select.select([ours], [], [], max(0, deadline - time.monotonic()))
            data = b""
            if ready:
                try:
                    data = os.read(ours, 1)
                except OSError:  # its end, on a pseudo terminal
                    data = b""
            if not data:
                os.close(ours)
                raise OSError(f"virsh console: {said.decode('utf-8', 'replace')[-300:].strip()}")
            said += data
        return ours

    def evidence(self, _domid: int) -> tuple[str, str]:
        """What libvirt knows of the domain, and the name of the file that is to hold it."""
        return self._virsh("dumpxml", self._name)[1], "domain.xml"

    def destroy(self, _domid: int) -> None:
        """End the domain."""
        self._virsh("destroy", self._name)

    def forget(self) -> None:
        """Leave no definition behind."""
        self._virsh("undefine", self._name)

    def _virsh(self, *words: str, timeout: float = 60) -> tuple[int, str]:
        return self._call(["virsh", "--quiet", *CONNECT, *words], timeout=timeout, merged=True)
