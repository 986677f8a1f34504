"""Where the changes to an image are kept until they are in it, also over a crash.

What takes the writes is renamed to a redo file, and that is put into the image, which may be
repeated any number of times. They lie in the image's directory, or where strangers could put
something in their place, redo files in ``changes`` beside the store, and what is not finished yet
in the workspace. There the name of a redo file tells the image's path and inode; a block device has
none, its changes live and die with the workspace.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from imagekit.disk import qemu_img
from imagekit.disk.extents import copy_data, data_size, opened
from imagekit.errors import BusyError, HostError, ImagekitError, ToolError
from imagekit.guest.openimage import OpenImage
from imagekit.host.outfile import no_space, os_errors
from imagekit.host.strangers import require_private_path, why_not_private
from imagekit.pipeline.workspace import HINT, Workspace

_REDO = ".imagekit-redo"
_WHOLE = ".imagekit-redo-whole"
_OVERLAY = ".imagekit-overlay"
_REDO_SECONDS = 900
"""A redo file older than the image by more than this was left by something else's writes."""


@dataclass(frozen=True)
class Keeping:
    """Where changes to an image go: ``redo`` and ``whole`` are names of its redo files."""

    image: Path
    copies: Path
    redo: Path | None
    whole: Path | None
    others: tuple[Path, ...] = ()
    """Redo files of ours that are not for this file in this directory as it is now."""

    def new_copy(self) -> Path:
        """An unused name for what takes the writes."""
        return self.copies / f".{self.image.name[:64]}{_OVERLAY}-{secrets.token_hex(6)}"

    def remove_stale(self) -> None:
        """Remove copies of killed runs: who holds the image's lock is the only user of the name."""
        prefix = f".{self.image.name[:64]}{_OVERLAY}-"
        with os_errors(self.copies):
            for path in self.copies.iterdir():
                if path.name.startswith(prefix) and path.lstat().st_uid == os.geteuid():
                    path.unlink(missing_ok=True)

    @property
    def interrupted(self) -> Path | None:
        """A redo file that was left there."""
        names = (self.redo, self.whole, *self.others)
        return next((name for name in names if name and os.path.lexists(name)), None)

    def finish(self, image: OpenImage, image_format: str) -> bool:
        """Finish what a crash interrupted; True when there was such a thing.

        Raises BusyError for a redo file that does not belong to the image as it is now.
        """
        redo = self.interrupted
        if redo is None:
            return False
        status = redo.lstat()
        mine = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if not mine or status.st_mode & 0o77:
            raise BusyError("is not a redo file this user made", where=str(redo), hint="remove it")
        hint = "restore the image from a copy, or remove this file to keep the image as it is"
        if redo in self.others:
            raise BusyError(
                f"a change to {self.image} was interrupted, and that was another file, or its "
                "directory was one's own",
                where=str(redo),
                hint=hint,
            )
        if os.fstat(image.fd).st_mtime - status.st_mtime > _REDO_SECONDS:
            raise BusyError(
                "a change to the image was interrupted, and something wrote to the image since",
                where=str(redo),
                hint=hint,
            )
        with deferred_signals():
            if redo == self.whole:
                _write_back(redo, image)
            else:
                with _lock_means_busy(image):
                    qemu_img.commit(redo, image.name, image_format)
            redo.unlink()
        return True


def keeping(image: Path, inode: int, *, device: bool, workspace: Workspace) -> Keeping:
    """Where changes to ``image``, its real path, are kept; raises HostError."""
    if device:
        return Keeping(image, workspace.directory, None, None)
    with os_errors(image.parent):
        private = not why_not_private(image.parent)
    beside = image.with_name(f".{image.name}{_REDO}"), image.with_name(f".{image.name}{_WHOLE}")
    if private:
        return Keeping(image, image.parent, *beside)
    folder = workspace.directory.parent.parent / "changes"
    with os_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    require_private_path(folder, HINT)
    path = hashlib.sha256(os.fsencode(image)).hexdigest()[:32]
    redo, whole = (folder / f"{path}-{inode}{end}" for end in (_REDO, _WHOLE))
    found = set(folder.glob(f"{path}-*")) - {redo, whole}
    found |= {name for name in beside if _is_ours(name)}
    return Keeping(image, workspace.directory, redo, whole, tuple(sorted(found)))


def _is_ours(name: Path) -> bool:
    try:
        return name.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def commit_overlay(image: OpenImage, image_format: str, overlay: Path, redo: Path | None) -> None:
    """Put what ``overlay`` holds into the open file; raises HostError, which says how to go on."""
    image.require_in_place()
    image.require_room(overlay.stat().st_blocks * 512)
    kept = _kept(overlay, redo)
    try:
        qemu_img.commit(kept, image.name, image_format)
    except ToolError as error:
        raise _half_written(image, error.output.strip()[-300:], redo) from error
    kept.unlink()


def commit_whole(image: OpenImage, copy: Path, redo: Path | None) -> None:
    """Write the changed ``copy`` of an image into the open file; raises as the other."""
    image.require_in_place()
    image.require_room(data_size(copy) - os.fstat(image.fd).st_blocks * 512)
    kept = _kept(copy, redo)
    try:
        _write_back(kept, image)
    except (ImagekitError, OSError) as error:
        raise _half_written(image, str(error), redo) from error
    kept.unlink()


def _kept(copy: Path, redo: Path | None) -> Path:
    """``copy`` under the name by which it is found after a crash."""
    with os_errors(copy):
        with copy.open("rb") as stream:
            os.fsync(stream.fileno())
        now = time.time()
        os.utime(copy, (now, now))
        if redo is None:
            return copy
        copy.rename(redo)
        folder = os.open(redo.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return redo


def _write_back(source: Path, image: OpenImage) -> None:
    with opened(source) as fd, os_errors(image.path):
        os.ftruncate(image.fd, 0)
        copy_data(fd, image.fd)
        os.fsync(image.fd)


def _half_written(image: OpenImage, why: str, redo: Path | None) -> HostError:
    return HostError(
        f"not all changes could be written to it: {why}",
        where=str(image.path),
        hint=f"remove the cause, then finish with: imagekit inject {image.path.name}"
        if redo is not None
        else "the device is half written; restore it from a copy",
    )


def make_overlay(image: OpenImage, image_format: str, overlay: Path) -> None:
    """Make ``overlay`` on the open file; raises BusyError, HostError, ToolError."""
    with _lock_means_busy(image):
        qemu_img.make_overlay(image.name, image_format, overlay)


@contextlib.contextmanager
def _lock_means_busy(image: OpenImage) -> Iterator[None]:
    """QEMU takes locks of its own on the images that it works on."""
    try:
        yield
    except ToolError as error:
        if "lock" in error.output:
            raise BusyError("is in use by another program", where=str(image.path)) from error
        if "No space left" in error.output:
            raise no_space(image.path) from error
        raise


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is done; it takes seconds."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, note) for number in names}
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            os.kill(os.getpid(), arrived[0])
