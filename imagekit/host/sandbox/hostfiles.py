"""The host's programs as a sandbox beside a tree sees them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from imagekit.host.sandbox.child.job import Mount

HOST_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
HOST_SETTINGS = (
    *("alternatives", "ca-certificates.conf", "debian_version", "group", "hosts", "ld.so.cache"),
    *("ld.so.conf", "ld.so.conf.d", "localtime", "login.defs", "mime.types", "mke2fs.conf"),
    *("nsswitch.conf", "os-release", "passwd", "pki", "python3", "python3.11", "resolv.conf"),
    *("services", "protocols", "ssl/certs", "ssl/openssl.cnf", "apt/trusted.gpg.d", "apt/keyrings"),
)
"""What programs read below /etc; nothing of it is secret."""


def _paths() -> list[str]:
    paths = [*HOST_DIRECTORIES, *(f"/etc/{name}" for name in HOST_SETTINGS)]
    paths += [p for p in (sys.prefix, sys.base_prefix) if not p.startswith("/usr/")]
    return [p for p in paths if os.path.lexists(p) and p != "/usr"] + ["/usr"]


def _is_link(path: str) -> bool:
    return os.path.islink(path) and os.path.isdir(path)  # noqa: PTH112, PTH114 - plain strings


def host_mounts() -> Iterator[Mount]:
    """Files and directories, read-only; what only root may read there stays closed inside."""
    for path in _paths():
        if not _is_link(path):
            yield Mount(path, path, read_only=True, mapped=False)


def host_links() -> Iterator[tuple[str, str]]:
    """Symbolic links to directories, such as /bin of a merged /usr: path and target."""
    for path in _paths():
        if _is_link(path):
            yield path, os.readlink(path)  # noqa: PTH115 - plain strings
