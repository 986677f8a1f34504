"""The copy of an image that is worked on, so that the image itself changes whole or not at all.

raw and qcow2: a qcow2 overlay takes the writes, and is committed at the end (``qemu-img commit``);
after a crash in the middle of that, the next change to the image finishes it first. A qcow2 that
strangers may write to is copied, for they could write the name of a file of the host into its
header meanwhile, and the changed copy is written back. VHD: a raw copy takes the writes and a new
VHD is renamed over the old one, since QEMU's own VHD writer keeps neither XenServer's batmap nor
its alignment. ``imagekit.guest.redo`` says where all this lies.

The image is opened once. Everything reads and writes it by that descriptor, QEMU too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

from imagekit.disk import image_info, qemu_img, reading, vhd
from imagekit.disk.convert import SUFFIXES
from imagekit.disk.extents import copy_sparse, opened, writable, write_exactly
from imagekit.disk.settled import settled
from imagekit.errors import BusyError, ImagekitError, SpecError
from imagekit.guest import redo
from imagekit.guest.files import NeedsAppliance
from imagekit.guest.openimage import OpenImage, open_image
from imagekit.host.outfile import by_descriptor, os_errors, replacing
from imagekit.pipeline.workspace import Workspace

DriveFormat = Literal["raw", "qcow2"]


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
    """``path`` in ``format`` takes the writes; see :func:`working_copy`. Sizes are in bytes."""

    path: Path
    format: DriveFormat
    virtual_size: int
    _put: Callable[[], None] = field(repr=False)
    notes: tuple[str, ...] = ()
    _base: tuple[Path, str] | None = None
    """The image and its format below an overlay."""

    def commit(self) -> None:
        """Put the changes into the image. Raises HostError, which says when to repeat it, and
        BusyError when another file has the image's name by now."""
        with redo.deferred_signals():
            self._put()

    @contextlib.contextmanager
    def as_raw(self, most: int, *, workspace: Workspace) -> Iterator[Path]:
        """The disk as it is before any change, as a raw file or device that is only read.

        A qcow2 is unpacked into the workspace, if it has at most ``most`` bytes. Raises
        NeedsAppliance, HostError, ImageError.
        """
        source, kind = self._base or (self.path, self.format)
        if kind == "raw":
            yield source
            return
        size = qemu_img.measure(source, kind)
        if size > most:
            raise NeedsAppliance("the qcow2 is large")
        raw = workspace.temporary("raw", size_bytes=size) / "disk.raw"
        try:
            qemu_img.convert(
                source, raw, source_format=kind, target_format="raw", size_bytes=self.virtual_size
            )
            yield raw
        finally:
            raw.unlink(missing_ok=True)

    def write(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Write pieces (offset in bytes, content) into the copy. Raises HostError, ToolError."""
        if self.format == "qcow2":
            qemu_img.write(self.path, self._base, pieces)
            return
        with os_errors(self.path), writable(self.path) as fd:
            for offset, content in pieces:
                write_exactly(fd, content, offset)


@contextlib.contextmanager
def working_copy(image: Path, image_format: str, *, workspace: Workspace) -> Iterator[WorkingCopy]:
    """Lock ``image`` and yield a copy to work on; without a commit the image stays as it is.

    A commit that a crash interrupted is finished first. Raises BusyError when the image is in use,
    ImageError for a damaged or hostile one, HostError, SpecError.
    """
    with open_image(image) as found:
        inode = os.fstat(found.fd).st_ino
        keeping = redo.keeping(found.path, inode, device=found.is_device, workspace=workspace)
        notes = []
        if keeping.finish(found, image_format):
            notes.append("an interrupted change was finished first")
        keeping.remove_stale()
        copy = keeping.new_copy()
        workspace.callback(lambda: copy.unlink(missing_ok=True))
        try:
            yield _prepared(found, image_format, copy, keeping, notes)
        finally:
            copy.unlink(missing_ok=True)


def _prepared(
    image: OpenImage, image_format: str, copy: Path, keeping: redo.Keeping, notes: list[str]
) -> WorkingCopy:
    """Make ``copy``, after the image was found to be sound."""
    source = image.name
    whole = image_format == "qcow2" and image.is_strangers and not image.is_device
    if whole:
        copy_sparse(image.name, copy)
        source = copy
    with _about(source, image.path):
        info = reading.probe(source, image_format)
        if image_format == "qcow2":
            qemu_img.check(source, "qcow2")
    size = info.virtual_size
    if whole:
        return WorkingCopy(
            copy,
            "qcow2",
            size,
            lambda: redo.commit_whole(image, copy, keeping.whole),
            tuple(notes),
        )
    if image_format == "vhd":
        reading.unpack_vhd(source, copy)
        if vhd.virtual_size_of(size) != size:
            notes.append("the VHD grows to a whole number of 2 MiB")
        return WorkingCopy(copy, "raw", size, lambda: _rewrite_vhd(image, copy), tuple(notes))
    redo.make_overlay(image, image_format, copy)
    return WorkingCopy(
        copy,
        "qcow2",
        size,
        lambda: redo.commit_overlay(image, image_format, copy, keeping.redo),
        tuple(notes),
        (image.name, image_format),
    )


@contextlib.contextmanager
def _about(source: Path, image: Path) -> Iterator[None]:
    """Errors about a copy of ``image`` name the image."""
    try:
        yield
    except ImagekitError as error:
        if error.where == str(source):
            error.where = str(image)
        raise


@dataclass(frozen=True)
class ReadableCopy:
    """``path`` in ``format`` shows the disk of an image, ``virtual_size`` bytes."""

    path: Path
    format: DriveFormat
    virtual_size: int


@contextlib.contextmanager
def readable_copy(
    image: Path, image_format: str, *, workspace: Workspace
) -> Iterator[ReadableCopy]:
    """What to read ``image`` by: an overlay on the file that was opened and checked, whatever has
    its name later; a VHD is unpacked into the workspace.

    Raises BusyError when a commit to the image was interrupted, ImageError, HostError, SpecError.
    """
    with _open_to_read(image, image_format, workspace) as source:
        info = reading.probe(source, image_format)
        if image_format == "vhd":
            data_size = int(info.details["data_size"])
            path = workspace.temporary("unpacked-vhd", size_bytes=data_size) / "disk.raw"
            reading.unpack_vhd(source, path)
        else:
            if image_format == "qcow2":
                qemu_img.check(source, "qcow2")
            path = workspace.temporary("reading") / "overlay.qcow2"
            qemu_img.make_overlay(source, image_format, path)
        try:
            drive_format: DriveFormat = "raw" if image_format == "vhd" else "qcow2"
            yield ReadableCopy(path, drive_format, info.virtual_size)
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_to_read(image: Path, image_format: str, workspace: Workspace) -> Iterator[Path]:
    """A path to the open file, or to a copy of a qcow2 whose header others could rewrite."""
    with opened(image) as fd, by_descriptor(fd, image) as name:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        status = os.fstat(fd)
        device = stat.S_ISBLK(status.st_mode)
        keeping = redo.keeping(path, status.st_ino, device=device, workspace=workspace)
        if keeping.interrupted is not None:
            raise BusyError(
                "an interrupted change to it is only half written",
                where=str(image),
                hint=f"finish it: imagekit inject {image.name} (with no other option)",
            )
        if image_format != "qcow2":
            yield name
            return
        with settled(name, workspace.temporary("settled")) as copy:
            yield copy


def _rewrite_vhd(image: OpenImage, raw: Path) -> None:
    image.require_in_place()
    details = reading.probe(image.name, "vhd").details
    before = os.fstat(image.fd)
    with replacing(image.path, overwrite=True) as part:
        vhd.fill_vhd(
            raw,
            part,
            subformat="fixed" if details["subformat"] == "fixed" else "dynamic",
            unique_id=UUID(str(details["unique_id"])),
        )
        with os_errors(image.path), part.open("rb") as stream:
            # The owner first: a stranger's program must not be root's with the setuid bit on it.
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(stream.fileno(), before.st_uid, before.st_gid)
            os.fchmod(stream.fileno(), stat.S_IMODE(before.st_mode) & 0o777)
            os.fsync(stream.fileno())
            image.require_in_place()
