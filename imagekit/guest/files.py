"""Files of a mounted guest: reading with bounds, writing without following surprises.

Paths are absolute in the guest. libguestfs runs every file call in a chroot of the guest's root
(daemon/daemon.h, CHROOT_IN), so a symbolic link can never reach the host; what is decided here is
where inside the guest a name may lead.
"""

from __future__ import annotations

import errno
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import GuestError
from imagekit.guest.appliance import Appliance, CallFailed

MAX_LINKS = 40
"""Symbolic links followed in one name, as in Linux (path_resolution(7))."""

MAX_TEXT = 4 << 20
"""Bytes of a configuration file that are read."""

VOLATILE = ("dev", "proc", "run", "sys")
"""Mounted over at boot: what is written there in an image is never seen."""


@dataclass(frozen=True)
class Status:
    """lstat(2) of a guest file: ``mode`` with its type bits, ``size`` in bytes."""

    mode: int
    uid: int
    gid: int
    size: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class GuestFiles:
    """File operations on the guest mounted in ``appliance``; all raise GuestError."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance

    def lstat(self, path: str) -> Status | None:
        """Status of the name itself, None when there is none."""
        try:
            found = self.appliance.call("lstatns", path)
        except CallFailed as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        return _status(found)

    def stat(self, path: str) -> Status | None:
        """Status of what ``path`` leads to, None for nothing and for a dangling or looping link."""
        try:
            resolved = self.resolve(path)
        except GuestError:
            return None
        return self.lstat(resolved)

    def resolve(self, path: str, *, final: bool = True) -> str:
        """``path`` without symbolic links; names that do not exist are kept as they are.

        The last name is only followed when ``final``. Raises GuestError for loops, for links that
        climb above the guest's root, and for names below something that is not a directory.
        """
        pending = _parts(path)
        current: list[str] = []
        links = 0
        while pending:
            name = pending.pop(0)
            if name == "..":
                if not current:
                    raise GuestError("leads out of the guest", where=path)
                current.pop()
                continue
            candidate = "/" + "/".join([*current, name])
            if not pending and not final:
                return candidate
            status = self.lstat(candidate)
            if status is None:
                if ".." in pending:
                    raise GuestError("goes up from a directory that does not exist", where=path)
                return "/".join([candidate, *pending])
            if status.is_link:
                links += 1
                if links > MAX_LINKS:
                    raise GuestError("has too many symbolic links", where=path)
                target = str(self.appliance.call("readlink", candidate))
                if target.startswith("/"):
                    current = []
                pending = _parts(target) + pending
                continue
            if pending and not status.is_directory:
                raise GuestError(f"{candidate} is not a directory", where=path)
            current.append(name)
        return "/" + "/".join(current)

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes | None:
        """Content of a regular file, links followed; None when there is no such regular file.

        Raises GuestError when it has more than ``limit`` bytes.
        """
        status = self.stat(path)
        if status is None or not status.is_file:
            return None
        if status.size > limit:
            raise GuestError(f"has {status.size} bytes, more than the {limit} read", where=path)
        return bytes(self.appliance.call("read_file", self.resolve(path)))

    def head(self, path: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a regular file (at most 2 MiB); None when there is none."""
        status = self.stat(path)
        if status is None or not status.is_file:
            return None
        count = min(status.size, limit, 2 << 20)
        return bytes(self.appliance.call("pread", self.resolve(path), count, 0)) if count else b""

    def peek(self, path: str, limit: int = 1 << 20) -> str:
        """The start of a text file; empty when there is none. For looking, not for changing."""
        return (self.head(path, limit) or b"").decode("utf-8", "replace")

    def text(self, path: str, limit: int = MAX_TEXT) -> str | None:
        """:meth:`read` as UTF-8, undecodable bytes kept as surrogates (os.fsencode reverses it)."""
        data = self.read(path, limit)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def download(self, path: str, target: Path, limit: int) -> bool:
        """Copy a regular file out to ``target``; False when there is none or it exceeds ``limit``.

        ``limit`` is in bytes.
        """
        status = self.stat(path)
        if status is None or not status.is_file or status.size > limit:
            return False
        self.appliance.call("download", self.resolve(path), str(target), timeout=600)
        return True

    def names(self, directory: str) -> list[str]:
        """Sorted names in a directory, empty when it is none."""
        status = self.stat(directory)
        if status is None or not status.is_directory:
            return []
        return sorted(self.appliance.call("ls", self.resolve(directory)))

    def destination(self, path: str) -> str:
        """The real name a write to ``path`` makes: links in its directories are followed inside the
        guest, a link that is the last name is replaced by what is written.

        Raises GuestError for a name that leads out of the guest or below a volatile directory, or
        that is a directory.
        """
        real = self.resolve(path, final=False)
        head = real.split("/")[1]
        if head in VOLATILE:
            raise GuestError(
                f"leads into /{head}, which is mounted over at boot: the guest would never see it",
                where=path,
            )
        status = self.lstat(real)
        if status is not None and status.is_directory:
            raise GuestError(
                "is a directory in the guest", where=path, hint="name the file to write"
            )
        if status is not None and not (status.is_file or status.is_link):
            raise GuestError("is a device, pipe or socket in the guest", where=path)
        return real

    def write(
        self,
        path: str,
        content: bytes | Path,
        *,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> str:
        """Put ``content`` (bytes, or a file of the host) at ``path``; returns the real name.

        Mode and owner (uid, gid) None keep those of a regular file that was there, else 0644 and
        root. Missing directories are made (0755, root).
        """
        real = self.destination(path)
        before = self.lstat(real)
        if before is not None and before.is_link:
            before = None
        directory, _, _name = real.rpartition("/")
        self.make_directory(directory or "/")
        part = f"{directory}/.imagekit-{secrets.token_hex(6)}"
        if isinstance(content, bytes):
            self.appliance.call("write", part, content)
        else:
            self.appliance.call("upload", str(content), part, timeout=1800)
        uid, gid = owner if owner else (before.uid, before.gid) if before else (0, 0)
        self.appliance.call("chown", uid, gid, part)
        bits = mode if mode is not None else stat.S_IMODE(before.mode) if before else 0o644
        self.appliance.call("chmod", bits, part)
        self.appliance.call("rename", part, real)
        return real

    def write_text(self, path: str, text: str) -> str:
        """:meth:`write` for text from :meth:`text`, keeping mode and owner."""
        return self.write(path, text.encode("utf-8", "surrogateescape"))

    def link(self, path: str, target: str) -> None:
        """Make ``path`` a symbolic link to ``target``, replacing a file or link."""
        real = self.destination(path)
        self.make_directory(real.rpartition("/")[0] or "/")
        self.appliance.call("ln_sf", target, real)

    def make_directory(self, path: str) -> str:
        """Make ``path`` and its parents (0755, root) where missing; returns its real name."""
        real = self.resolve(path)
        status = self.lstat(real)
        if status is None:
            self.appliance.call("mkdir_p", real)
        elif not status.is_directory:
            raise GuestError("is not a directory in the guest", where=path)
        return real

    def remove(self, path: str) -> bool:
        """Remove a file, link or tree; False when there was none. Never follows the last name."""
        real = self.resolve(path, final=False)
        if real == "/":
            raise GuestError("the root of the guest is not removed", where=path)
        if self.lstat(real) is None:
            return False
        self.appliance.call("rm_rf", real)
        return True


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _status(found: Any) -> Status:
    return Status(
        int(found["st_mode"]), int(found["st_uid"]), int(found["st_gid"]), int(found["st_size"])
    )
