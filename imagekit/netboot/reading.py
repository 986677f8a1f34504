"""Kernels and packages of strangers, read by a worker that can do nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from pathlib import Path

from imagekit.errors import ImageError
from imagekit.host.outfile import os_errors
from imagekit.host.worker import MIB, Confined, Limits
from imagekit.pypxeboot.session import check_kernel as check_open_kernel

MAX_MEMBER = 512 * MIB
_MEMBER = re.compile(r"(^|/)text/debian-installer/[^/]+/(linux|initrd\.gz)$")


def check_kernel(fd: int, where: str) -> None:
    """Raise ImageError unless the open file ``fd`` is what Xen's domain builder may load."""
    _CHECK(where, [fd], where)


def unpack_installer(tree: Path, kernel: Path, initrd: Path) -> tuple[str, ...]:
    """Take the installer out of the tar file ``tree`` of a package, into new files.

    Returns the names that are not in it, of ``linux`` and ``initrd.gz``. Raises ImageError,
    HostError.
    """
    with contextlib.ExitStack() as stack:
        files = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for path, how in ((tree, os.O_RDONLY | os.O_CLOEXEC), (kernel, flags), (initrd, flags)):
            with os_errors(path):
                files.append(os.open(path, how, 0o600))
            stack.callback(os.close, files[-1])
        return _UNPACK(str(tree), files, str(tree))


def _checked(files: tuple[int, ...], where: str) -> None:
    check_open_kernel(files[0], where)


def _unpacked(files: tuple[int, ...], where: str) -> tuple[str, ...]:
    tree, *targets = files
    left = dict(zip(("linux", "initrd.gz"), targets, strict=True))
    try:
        with os.fdopen(tree, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                match = _MEMBER.search(member.name)
                if match is not None and member.isfile() and match[2] in left:
                    _copy(archive, member, left.pop(match[2]))
    except tarfile.TarError as error:
        raise ImageError(f"its content cannot be read: {error}", where=where) from error
    return tuple(left)


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: int) -> None:
    source = archive.extractfile(member)
    if source is None:
        return
    if member.size > MAX_MEMBER:
        raise ImageError(f"{member.name} has {member.size} bytes, more than {MAX_MEMBER}")
    with source, os.fdopen(target, "wb") as stream:
        while block := source.read(MIB):
            stream.write(block)


_CHECK = Confined(_checked, "the kernel", Limits(cpu_seconds=10, answer=MIB))
_UNPACK = Confined(_unpacked, "the package", Limits(answer=MIB, file_bytes=MAX_MEMBER))
