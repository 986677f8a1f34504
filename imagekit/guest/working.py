"""The copy of an image that is worked on, so that the image itself changes whole or not at all.

raw and qcow2: a qcow2 overlay in the image's directory takes the writes. At the end it is renamed
to a redo file and committed with ``qemu-img commit -d``, which may be repeated any number of times;
after a crash in the middle of that, the next change to the image finishes it first (a block device
has no such file: its overlay lives and dies with the workspace). VHD: a raw copy
takes the writes and a new VHD is renamed over the old one, since QEMU's own VHD writer keeps
neither XenServer's batmap nor its alignment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal
from uuid import UUID

from imagekit.disk import image_info, qemu_img, reading, vhd
from imagekit.disk.convert import SUFFIXES
from imagekit.errors import BusyError, HostError, ImageError, SpecError, ToolError
from imagekit.host.outfile import no_space, os_errors
from imagekit.host.run import run
from imagekit.pipeline.workspace import Workspace

_REDO = ".imagekit-redo"
_OVERLAY = ".imagekit-overlay"
_REDO_SECONDS = 900
"""A redo file older than the image by more than this was left by something else's writes."""


def named_format(image: Path, given: str | None) -> str:
    """The format of ``image``: the one given, else what name and magic number agree on.

    A raw disk may carry any magic number its guest wrote, so a name that says raw and a content
    that says otherwise is refused. Raises SpecError, ImageError.
    """
    if given is not None:
        return image_info.check_format(given)
    named = SUFFIXES.get(image.suffix.lower())
    try:
        found: str | None = reading.detect(image)
    except SpecError:
        if not image.is_file() and not image.is_block_device():
            raise
        found = None
    if named is None and found is None:
        raise SpecError(
            "neither its name nor its content tells the format", where=str(image), hint="--format"
        )
    if named == found or named is None or (found is None and named == "raw"):
        return named or found or "raw"
    raise SpecError(
        f"its name says {named}, its content {found or 'raw'}",
        where=str(image),
        hint=f"say what it is: --format {named} or --format {found or 'raw'}",
    )


@dataclass(frozen=True)
class WorkingCopy:
    """``path`` in ``format`` (raw or qcow2) takes the writes; see :func:`working_copy`."""

    image: Path
    image_format: str
    path: Path
    format: Literal["raw", "qcow2"]
    notes: tuple[str, ...] = ()

    def commit(self) -> None:
        """Put the changes into the image. Raises HostError, ToolError; says when to repeat it."""
        with _deferred_signals():
            if self.image_format == "vhd":
                _rewrite_vhd(self.image, self.path)
            else:
                _commit_overlay(self.image, self.path)


@contextlib.contextmanager
def working_copy(image: Path, image_format: str, *, workspace: Workspace) -> Iterator[WorkingCopy]:
    """Lock ``image`` and yield a copy to work on; without a commit the image stays as it is.

    A commit that a crash interrupted is finished first. Raises BusyError when the image is in use,
    ImageError for a damaged or hostile one, HostError, SpecError.
    """
    with os_errors(image):
        image = image.resolve(strict=True)
    with _locked(image):
        _refuse_in_use(image)
        notes = ["an interrupted change was finished first"] if _finish_redo(image) else []
        info = reading.probe(image, image_format)
        if image_format == "qcow2":
            qemu_img.check(image, "qcow2")
        directory = workspace.directory if image.is_block_device() else image.parent
        _remove_stale(directory, image)
        copy = directory / f".{image.name[:64]}{_OVERLAY}-{secrets.token_hex(6)}"
        workspace.callback(lambda: copy.unlink(missing_ok=True))
        try:
            if image_format == "vhd":
                reading.unpack_vhd(image, copy)
                if vhd.virtual_size_of(info.virtual_size) != info.virtual_size:
                    notes.append("the VHD grows to a whole number of 2 MiB")
                yield WorkingCopy(image, image_format, copy, "raw", tuple(notes))
            else:
                _make_overlay(image, image_format, copy)
                yield WorkingCopy(image, image_format, copy, "qcow2", tuple(notes))
        finally:
            copy.unlink(missing_ok=True)


@contextlib.contextmanager
def readable_copy(
    image: Path, image_format: str, *, workspace: Workspace
) -> Iterator[tuple[Path, str]]:
    """(path, format raw or qcow2) to read ``image`` by; a VHD is unpacked into the workspace.

    Raises BusyError when a commit to the image was interrupted, ImageError, HostError, SpecError.
    """
    with os_errors(image):
        image = image.resolve(strict=True)
    if _redo_name(image).exists():
        raise BusyError(
            "an interrupted change to it is only half written",
            where=str(image),
            hint=f"finish it: imagekit inject {image.name} (with no other option)",
        )
    info = reading.probe(image, image_format)
    if image_format == "qcow2":
        qemu_img.check(image, "qcow2")
    if image_format != "vhd":
        yield image, image_format
        return
    data_size = int(info.details["data_size"])
    directory = workspace.temporary("unpacked-vhd", size_bytes=data_size)
    raw = directory / "disk.raw"
    reading.unpack_vhd(image, raw)
    try:
        yield raw, "raw"
    finally:
        raw.unlink(missing_ok=True)


def _make_overlay(image: Path, image_format: str, overlay: Path) -> None:
    with os_errors(overlay):
        os.close(os.open(overlay, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    _qemu_img(
        ["create", "-q", "-f", "qcow2", "-F", image_format, "-b", str(image), str(overlay)],
        image,
        "making an overlay",
    )


def _commit_overlay(image: Path, overlay: Path) -> None:
    needed = overlay.stat().st_blocks * 512
    if not image.is_block_device():
        status = os.statvfs(image.parent)
        if status.f_bavail * status.f_frsize < needed:
            raise no_space(image)
    with overlay.open("rb") as stream:
        os.fsync(stream.fileno())
    now = time.time()
    os.utime(overlay, (now, now))
    redo = _redo_name(image)
    if image.is_block_device():
        redo = overlay
    overlay.rename(redo)
    try:
        _qemu_img(["commit", "-q", "-d", "-f", "qcow2", str(redo)], image, "committing the changes")
    except ToolError as error:
        kept = not image.is_block_device()
        raise HostError(
            "not all changes could be written to it: " + error.output.strip()[-300:],
            where=str(image),
            hint=f"remove the cause, then finish with: imagekit inject {image.name}"
            if kept
            else "the device is half written; restore it from a copy",
        ) from error
    redo.unlink()


def _finish_redo(image: Path) -> bool:
    """Commit what a crash interrupted; True when there was such a thing."""
    redo = _redo_name(image)
    try:
        status = redo.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o77:
        raise BusyError("is not a redo file this user made", where=str(redo), hint="remove it")
    if image.stat().st_mtime - status.st_mtime > _REDO_SECONDS:
        raise BusyError(
            "a change to the image was interrupted, and something wrote to the image since",
            where=str(redo),
            hint="restore the image from a copy, or remove this file to keep the image as it is",
        )
    with _deferred_signals():
        _qemu_img(["commit", "-q", "-d", "-f", "qcow2", str(redo)], image, "committing the changes")
        redo.unlink()
    return True


def _redo_name(image: Path) -> Path:
    return image.with_name(f".{image.name}{_REDO}")


def _rewrite_vhd(image: Path, raw: Path) -> None:
    details = reading.probe(image, "vhd").details
    part = image.with_name(f".{image.name[:64]}{_OVERLAY}-{secrets.token_hex(6)}.vhd")
    before = image.stat()
    try:
        vhd.write_vhd(
            raw,
            part,
            subformat="fixed" if details["subformat"] == "fixed" else "dynamic",
            unique_id=UUID(str(details["unique_id"])),
        )
        with os_errors(part):
            part.chmod(stat.S_IMODE(before.st_mode))
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(part, before.st_uid, before.st_gid)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.replace(image)
    finally:
        part.unlink(missing_ok=True)


def _qemu_img(arguments: list[str], image: Path, what: str) -> None:
    try:
        run(["qemu-img", *arguments], what=what)
    except ToolError as error:
        if "lock" in error.output:
            raise BusyError("is in use by another program", where=str(image)) from error
        if "No space left" in error.output and arguments[0] != "commit":
            raise no_space(image) from error
        raise


@contextlib.contextmanager
def _locked(image: Path) -> Iterator[None]:
    with os_errors(image):
        fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not (stat.S_ISREG(os.fstat(fd).st_mode) or stat.S_ISBLK(os.fstat(fd).st_mode)):
            raise ImageError("is not a file or block device", where=str(image))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("another imagekit works on it", where=str(image)) from None
        yield
    finally:
        os.close(fd)


def _refuse_in_use(image: Path) -> None:
    """A loop device means a running domU (/etc/xen/scripts/block) or somebody's mount."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().rstrip("\n") == str(image):
                raise BusyError(
                    f"is attached to /dev/{backing.parts[-3]}, perhaps for a running domU",
                    where=str(image),
                    hint="stop the domU or detach the device first",
                )


def _remove_stale(directory: Path, image: Path) -> None:
    """Overlays of killed runs: whoever holds the image's lock is the only user of such a name."""
    prefix = f".{image.name[:64]}{_OVERLAY}-"
    with os_errors(directory):
        for path in directory.iterdir():
            if path.name.startswith(prefix) and path.lstat().st_uid == os.geteuid():
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
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
