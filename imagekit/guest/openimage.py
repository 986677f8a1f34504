"""An image that is changed: opened once, locked, and from then on used by its descriptor.

Its directory may be a stranger's, who can give its name to another file at any moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import BusyError, HostError, ImageError
from imagekit.host.outfile import by_descriptor, os_errors
from imagekit.host.ownership import other_writers, owner_is_trusted
from imagekit.host.strangers import open_path


@dataclass(frozen=True)
class OpenImage:
    """The image ``path``, its real name, open as ``fd``; ``name`` leads through the descriptor, for
    this process and its children."""

    path: Path
    fd: int
    name: Path

    @property
    def is_device(self) -> bool:
        """Whether it is a block device."""
        return stat.S_ISBLK(os.fstat(self.fd).st_mode)

    @property
    def is_strangers(self) -> bool:
        """Whether somebody else may write to it, also while we work on it."""
        return not owner_is_trusted(os.fstat(self.fd)) or bool(other_writers(self.fd))

    def require_in_place(self) -> None:
        """Raise BusyError when its name is another file's now."""
        status = os.fstat(self.fd)
        try:
            found = self.path.lstat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (status.st_dev, status.st_ino):
            raise BusyError(
                "another file was put in its place while it was worked on; nothing was changed",
                where=str(self.path),
                hint="work on it where nobody else may write to its directory",
            )

    def require_room(self, needed: int) -> None:
        """Raise HostError unless ``needed`` more bytes fit where it lies."""
        status = os.fstatvfs(self.fd)
        if not self.is_device and status.f_bavail * status.f_frsize < needed:
            raise HostError(
                "no space left on the device",
                where=str(self.path),
                hint="free some space; the image was not changed",
            )


@contextlib.contextmanager
def open_image(image: Path) -> Iterator[OpenImage]:
    """Open ``image`` for writing and lock it (flock(2)) for the length of a block.

    Raises BusyError when it is in use, ImageError, SpecError as
    :func:`imagekit.host.strangers.open_path`, HostError.
    """
    with os_errors(image):
        fd = open_path(image, os.O_RDWR | os.O_NONBLOCK)
    try:
        if not (stat.S_ISREG(os.fstat(fd).st_mode) or stat.S_ISBLK(os.fstat(fd).st_mode)):
            raise ImageError("is not a file or block device", where=str(image))
        path = Path(f"/proc/self/fd/{fd}").readlink()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("another imagekit works on it", where=str(image)) from None
        _refuse_in_use(path)
        with by_descriptor(fd, path) as name:
            yield OpenImage(path, fd, name)
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
