"""Booting a guest from its own disk: the toolstack's pygrub reads the disk, we pass its find on.

Sources: tools/pygrub/src/pygrub of Xen 4.17 (options, ``simple0`` output).
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imagekit.errors import CapabilityError, HostError, ImageError, SpecError
from imagekit.host.confined import Confinement, Room
from imagekit.host.run import run
from imagekit.host.tools import find
from imagekit.pypxeboot.handover import FreshFiles, Result

PYGRUB_SECONDS = 90.0
MAX_RESULT = 65536
MAX_FILE = 1 << 30
LIMITS = {"AS": 1 << 30, "CPU": 60, "NOFILE": 64}
"""Bytes of memory, seconds of a processor, and open files (getrlimit(2))."""
ROOMS = (Path("/mnt"), Path("/media"), Path("/srv"))
"""Directories that hosts have (FHS 3.0): pygrub sees the disk there, and not what is there."""


def find_pygrub(root: Path = Path("/")) -> Path:
    """The pygrub of the running Xen, else of the newest installed; raises CapabilityError.

    Debian's /usr/bin/pygrub is a wrapper that needs a running Xen, so it comes last.
    """
    running = _running_version(root)
    found = sorted(root.glob("usr/lib/xen-*/bin/pygrub"), key=_version_of, reverse=True)
    found.sort(key=lambda path: path.parts[-3] != f"xen-{running}")
    for fixed in ("usr/lib/xen/bin/pygrub", "usr/libexec/xen/bin/pygrub"):
        found += [path for path in [root / fixed] if path.exists()]
    if found:
        return found[0]
    on_path = find("pygrub")
    if on_path is None:
        raise CapabilityError(
            "the boot server says to boot the guest's own disk, and there is no pygrub here",
            hint="install the toolstack's pygrub (Debian: xen-utils-4.17)",
        )
    return on_path


def _running_version(root: Path) -> str:
    parts = []
    for name in ("major", "minor"):
        try:
            parts.append((root / "sys/hypervisor/version" / name).read_text().strip())
        except OSError:
            return ""
    return ".".join(parts)


def _version_of(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall("[0-9]+", path.parts[-3]))


def boot_from_disk(
    disk: str,
    files: FreshFiles,
    *,
    pygrub: Path | None = None,
    kernel: str = "",
    ramdisk: str = "",
    args: str = "",
    uid: int | None = None,
    max_file_bytes: int = MAX_FILE,
) -> Result:
    """Let pygrub pick the kernel from ``disk`` (a raw file or a block device).

    ``kernel``, ``ramdisk`` and ``args`` are pygrub's own options. pygrub runs as ``uid`` (None:
    ours), in no network, with limits; of root's files it sees this disk, which it cannot change.
    Raises ToolError when pygrub finds nothing, ImageError when what it says makes no sense.
    """
    _require_disk(disk)
    program = pygrub or find_pygrub()
    options = {"kernel": kernel, "ramdisk": ramdisk, "args": args}
    with tempfile.TemporaryDirectory(prefix="pygrub.", dir=files.directory) as private:
        room = _room(Path(disk), Path(private)) if uid is not None else None
        shown = room.at / "out" if room else Path(private)
        report = Path(private) / "report"
        report.touch(0o600)
        if uid is not None:
            for path in (Path(private), report):
                os.chown(path, uid, uid)
        limits = {**LIMITS, "FSIZE": max_file_bytes} | ({"NPROC": 1} if uid is not None else {})
        words = [
            program,
            "-q",
            *(f"--{name}={value}" for name, value in options.items() if value),
            f"--output={shown / report.name}",
            "--output-format=simple0",
            f"--output-directory={shown}",
            room.at / "disk" if room else disk,
        ]
        run(
            Confinement(uid, limits=limits, room=room).argv(words),
            timeout=PYGRUB_SECONDS,
            what="reading the boot configuration of the guest's disk with pygrub",
        )
        found = parse_simple0(_said(report), shown)
        taken = _take_over(Path(private) / found.kernel.name, "boot_kernel.", files)
        initrd = None
        if found.ramdisk:
            initrd = _take_over(Path(private) / found.ramdisk.name, "boot_ramdisk.", files)
        return Result(taken, initrd, found.args)


def _require_disk(disk: str) -> None:
    if not disk or not Path(disk).exists():
        raise SpecError(
            "the boot server says to boot the guest's own disk, and "
            + (f"{disk} does not exist" if disk else "no disk was given"),
            hint="the toolstack gives disk[0] as the last argument; the domain needs one",
        )


def _room(disk: Path, private: Path) -> Room:
    at = next((place for place in ROOMS if place.is_dir() and not place.is_symlink()), None)
    if at is None:
        raise HostError(f"none of the directories {', '.join(map(str, ROOMS))} is here")
    return Room(at, {"disk": disk}, {"out": private})


def _said(report: Path) -> bytes:
    """What pygrub wrote, which by now may be anything."""
    with _opened(report) as stream:
        return stream.read(MAX_RESULT)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file of pygrub's, and no link to another."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        where = str(path)
        raise ImageError(f"pygrub's file cannot be read: {error.strerror}", where=where) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ImageError("pygrub reports what is no file of its own", where=str(path))
        with os.fdopen(fd, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(fd)


def _take_over(path: Path, prefix: str, files: FreshFiles) -> Path:
    """Move pygrub's copy into the output directory itself, as ours, under a fresh name."""
    with _opened(path) as stream:
        descriptor, fresh = files.create(prefix)
        os.close(descriptor)
        path.replace(fresh)
        if not os.path.samestat(fresh.lstat(), os.fstat(stream.fileno())):
            raise ImageError("pygrub's file was changed for another", where=str(path))
        os.fchown(stream.fileno(), os.geteuid(), os.getegid())
        os.fchmod(stream.fileno(), 0o600)
    return fresh


def parse_simple0(said: bytes, directory: Path) -> Result:
    """Read pygrub's ``simple0`` report; its files must lie in ``directory``."""
    items: dict[str, str] = {}
    for item in said.split(b"\0"):
        name, _, value = item.decode("utf-8", "surrogateescape").partition(" ")
        if value:
            items[name] = value
    if "kernel" not in items:
        raise ImageError("pygrub found no kernel on the guest's disk")
    return Result(
        _inside(items["kernel"], directory),
        _inside(items["ramdisk"], directory) if "ramdisk" in items else None,
        items.get("args", ""),
    )


def _inside(name: str, directory: Path) -> Path:
    path = Path(name)
    if path.parent != directory or path.name in ("", ".", ".."):
        raise ImageError("pygrub reports a file outside its output directory", where=name)
    return path
