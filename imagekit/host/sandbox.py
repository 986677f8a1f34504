"""Runs somebody else's code as root of a file system of its own, with few of root's powers.

Two shapes: a tree becomes the whole file system (scripts of a guest), or an empty one is made that
holds the host's programs read-only and a few writable directories (scripts that run beside the
tree). In both, ``imagekit.host.sandbox_child`` makes the mounts and then gives up everything that
would lead out: pivot_root(2) leaves no path to the host's files, and the capabilities that could
reach devices, mounts or the kernel are dropped from the bounding set (capabilities(7)).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.host import userns
from imagekit.host.run import Completed, run

SHIPS = ("sandbox_child.py", "sudo.sh")
CHILD = Path(__file__).parent / "sandbox_child.py"
SUDO = Path(__file__).parent / "sudo.sh"
"""A sudo for those who are root already."""
# linux/capability.h
KEPT = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "sys_chroot": 18,
    "audit_write": 29,
    "setfcap": 31,
}
MOUNTING = {"dac_read_search": 2, "sys_admin": 21, "mknod": 27}
"""What making a root file system needs beside: mounts, device nodes, file handles."""
HOST_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
HOST_SETTINGS = (
    *("alternatives", "ca-certificates.conf", "debian_version", "group", "hosts", "ld.so.cache"),
    *("ld.so.conf", "ld.so.conf.d", "localtime", "login.defs", "mime.types", "mke2fs.conf"),
    *("nsswitch.conf", "os-release", "passwd", "pki", "python3", "python3.11", "resolv.conf"),
    *("services", "protocols", "ssl", "apt/trusted.gpg.d", "apt/keyrings"),
)
"""What programs read below /etc; nothing of it is secret."""


@dataclass(frozen=True)
class Sandbox:
    """A file system to run in.

    ``root`` is the tree, or with ``host_programs`` an empty directory to mount the new root on.
    ``read_only`` and ``writable`` map directories of the host to absolute paths inside.
    ``mounting`` keeps the capabilities to mount and to make device nodes.
    """

    root: Path
    host_programs: bool = False
    read_only: Mapping[Path, str] = field(default_factory=dict)
    writable: Mapping[Path, str] = field(default_factory=dict)
    network: bool = False
    mounting: bool = False

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        timeout: float,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        what: str | None = None,
    ) -> Completed:
        """Run ``argv`` with exactly ``env``; ``timeout`` in seconds ends all it has started.

        Descriptor 9 is a copy of standard error. Raises ToolError, and HostError without
        namespaces.
        """
        kept = {*KEPT.values(), *(MOUNTING.values() if self.mounting else ())}
        job = {
            "root": str(self.root),
            "host": self._host() if self.host_programs else None,
            "read_only": [[str(s), d] for s, d in self.read_only.items()],
            "writable": [[str(s), d] for s, d in self.writable.items()],
            "argv": list(argv),
            "env": dict(env),
            "cwd": cwd,
            "kept": sorted(kept),
            "recursive": os.geteuid() != 0,
        }
        return run(
            [*userns.isolated(network=self.network), sys.executable, "-I", str(CHILD)],
            input=json.dumps(job).encode(),
            timeout=timeout,
            log=log,
            on_line=on_line,
            what=what,
        )

    def _host(self) -> list[str]:
        paths = [*HOST_DIRECTORIES, *(f"/etc/{name}" for name in HOST_SETTINGS)]
        paths += [p for p in (sys.prefix, sys.base_prefix) if not p.startswith("/usr/")]
        return [p for p in paths if os.path.lexists(p) and p != "/usr"] + ["/usr"]
