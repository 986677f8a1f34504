"""Changing an image without an appliance: where its root is a plain ext4.

The blocks that change are found beside the image, and judged by e2fsck before any of them is put
into it. Whatever is not certain is left to the appliance, and nothing was done then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.errors import GuestError, ToolError
from imagekit.guest.backends.ext import ExtFiles, Place, ext_files
from imagekit.guest.devices import DISK
from imagekit.guest.files import NeedsAppliance
from imagekit.guest.osfiles import looks_like_system, parse_fstab
from imagekit.guest.working import WorkingCopy
from imagekit.host.program import Bounds, confined, given
from imagekit.host.run import run
from imagekit.pipeline.workspace import Workspace

MOST_WRITTEN = 256 << 20
"""Bytes that are changed this way; of more, an appliance's start is the smaller part."""
_MOST_CONVERTED = 8 << 30
_PIECE = 4 << 20
_SAYS = 4 << 20
_SECONDS = 300
_KERNELS_OWN = ("proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "swap", "none")
"""Types of fstab(5) under which no file of a disk is (and ``none`` of swap)."""


@dataclass(frozen=True)
class QuickRoot:
    """The root of the operating system, on ``device`` as the appliance calls it; ``files`` are its
    own. After :meth:`finish` the changes are in the working copy."""

    device: str
    files: ExtFiles
    _copy: WorkingCopy
    _place: Place
    _written: int
    """A sparse file as large as the file system: its metadata, and what was changed."""

    def finish(self) -> None:
        """Have e2fsck(8) judge the changes, and put them into the working copy.

        Raises NeedsAppliance when it finds anything, HostError, ToolError.
        """
        runs = self.files.finish()
        self._require_order(runs)
        _judge(self._written)
        self._copy.write(self._pieces(runs))

    def _require_order(self, runs: list[tuple[int, int]]) -> None:
        """They come from a process that has looked at a stranger's file system."""
        end = 0
        for offset, length in runs:
            if offset < end or length <= 0 or offset + length > self._place.size:
                raise NeedsAppliance("the changes are not in order")
            end = offset + length

    def _pieces(self, runs: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        for offset, length in runs:
            end = offset + length
            for start in range(offset, end, _PIECE):
                content = os.pread(self._written, min(_PIECE, end - start), start)
                yield self._place.start + start, content


@contextlib.contextmanager
def quick_root(
    copy: WorkingCopy, partition: int | None, *, workspace: Workspace
) -> Iterator[QuickRoot]:
    """The root of the guest in ``copy`` for the length of a block; ``partition`` forces it.

    Raises NeedsAppliance when there may be another root, or it is not a clean ext2, ext3 or ext4.
    """
    scratch = workspace.temporary("blocks") / "changed"
    with (
        copy.as_raw(_MOST_CONVERTED, workspace=workspace) as raw,
        opened(raw) as disk,
        _new_file(scratch) as written,
        ext_files(disk, written, MOST_WRITTEN) as files,
    ):
        place = _find(files, partition)
        _copy_metadata(disk, written, place)
        if place.number is None:
            device = f"/dev/{place.name}"
        else:
            device = f"{DISK}{place.number}" if place.number else DISK
        yield QuickRoot(device, files, copy, place, written)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def _find(files: ExtFiles, partition: int | None) -> Place:
    """The only root there is, or the one in ``partition``; it is open then."""
    table, places = files.scan()
    unknown = [place for place in places if place.content in ("lvm", "other")]
    if unknown:
        raise NeedsAppliance(f"partition {unknown[0].name} may hold a file system")
    roots = [place for place in places if place.content == "ext" and _is_root(files, place)]
    if partition is not None:
        roots = [place for place in roots if place.number == partition]
    if len(roots) != 1:
        raise NeedsAppliance(f"there are {len(roots)} roots on a disk with table {table}")
    files.open(roots[0])
    files.elsewhere = _mount_points(files)
    return roots[0]


def _is_root(files: ExtFiles, place: Place) -> bool:
    try:
        files.open(place)
        return looks_like_system(files)
    except GuestError as error:
        raise NeedsAppliance(error.what) from error


def _mount_points(files: ExtFiles) -> tuple[str, ...]:
    """Directories where fstab(5) mounts something, whatever that is."""
    found = set()
    for line in parse_fstab(files.peek("/etc/fstab")):
        point = line.mountpoint.rstrip("/")
        if point.startswith("/") and line.type not in _KERNELS_OWN:
            if "/.." in point or "//" in point or "/./" in point:
                raise NeedsAppliance(f"its fstab mounts {point}")
            found.add(point)
    return tuple(sorted(found))


def _copy_metadata(disk: int, written: int, place: Place) -> None:
    """All that e2fsck looks at, without what is in files (e2image(8), raw image files)."""
    argv = ["e2image", "-r", "-o", str(place.start), given(disk), given(written)]
    # It may copy what it takes for metadata, and that may be the whole file system.
    bounds = Bounds(cpu_seconds=_SECONDS, file_bytes=place.size)
    command = confined(argv, readable=(disk,), writable=(written,), bounds=bounds)
    what = "copying the metadata of the file system"
    try:
        run(command, what=what, timeout=_SECONDS, pass_fds=(disk, written), output_limit=_SAYS)
    except ToolError as error:
        raise NeedsAppliance(f"e2image: {error.output.strip()[-200:] or error.what}") from error


def _judge(written: int) -> None:
    """Raise NeedsAppliance unless e2fsck finds nothing at all (e2fsck(8), exit code 0)."""
    argv = ["e2fsck", "-f", "-n", given(written)]
    bounds = Bounds(cpu_seconds=_SECONDS)
    command = confined(argv, readable=(written,), bounds=bounds)
    try:
        run(command, timeout=_SECONDS, what="e2fsck", pass_fds=(written,), output_limit=_SAYS)
    except ToolError as error:
        said = error.output.strip().replace("\n", "; ")
        raise NeedsAppliance(f"e2fsck is not content: {said[-300:] or error.what}") from error
