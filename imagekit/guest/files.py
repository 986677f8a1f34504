"""Files of a mounted guest: reading with bounds, writing without following surprises.

Paths are absolute in the guest. The back ends (:mod:`imagekit.guest.backends`) see to it that no
name reaches the host; what is decided here is where inside the guest a name may lead.
"""

from __future__ import annotations

import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import GuestError

MAX_LINKS = 40
"""Symbolic links followed in one name, as in Linux (path_resolution(7))."""

MAX_TEXT = 4 << 20
"""Bytes of a configuration file that are read."""

MAX_BELOW = 100_000
"""Names of one tree that are looked at; a home directory has fewer."""

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
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link, wherever that leads."""
        return stat.S_ISLNK(self.mode)


class NeedsAppliance(Exception):
    """Nothing was changed, and libguestfs's appliance has to do it; the text says why. Of back ends
    that do only what they can do exactly."""


class GuestFiles(ABC):
    """File operations on one guest; all raise GuestError.

    What a name means is decided here, once; a back end only does what it is told to names without
    links (``real``), and never follows one.
    """

    @abstractmethod
    def lstat(self, path: str) -> Status | None:
        """Status of the name itself, None when there is none."""

    @abstractmethod
    def readlink(self, real: str) -> str:
        """What the symbolic link at a real name says."""

    @abstractmethod
    def _names(self, real: str) -> list[str]:
        """The names in a directory, in any order."""

    @abstractmethod
    def _read(self, real: str, count: int, offset: int) -> bytes:
        """``count`` bytes of a regular file from ``offset`` on, less at its end."""

    @abstractmethod
    def _create(self, real: str, content: bytes | Path) -> None:
        """Make a file that is not there yet from bytes, or from a file of the host."""

    @abstractmethod
    def _chown(self, real: str, uid: int, gid: int) -> None:
        """Change the owner of the name itself."""

    @abstractmethod
    def _chmod(self, real: str, mode: int) -> None:
        """Change the permission bits of what is no link."""

    @abstractmethod
    def _rename(self, real: str, target: str) -> None:
        """Put a file in the place of another name."""

    @abstractmethod
    def _symlink(self, real: str, target: str) -> None:
        """Make a symbolic link that is not there yet."""

    @abstractmethod
    def _mkdir(self, real: str) -> None:
        """Make a directory, and those above it, where missing (0755, root)."""

    @abstractmethod
    def _remove(self, real: str) -> None:
        """Remove a file, link or tree that is there."""

    def _changed(self) -> None:  # noqa: B027 - most back ends have nothing to forget
        """Called after each change, for back ends that remember."""

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
                target = self.readlink(candidate)
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
        return self._read(self.resolve(path), status.size, 0) if status.size else b""

    def head(self, path: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a regular file (at most 2 MiB); None when there is none."""
        status = self.stat(path)
        if status is None or not status.is_file:
            return None
        count = min(status.size, limit, 2 << 20)
        return self._read(self.resolve(path), count, 0) if count else b""

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
        real, done = self.resolve(path), 0
        with target.open("wb") as stream:
            while piece := self._read(real, 1 << 20, done):
                stream.write(piece)
                done += len(piece)
        return True

    def names(self, directory: str) -> list[str]:
        """Sorted names in a directory, empty when it is none."""
        status = self.stat(directory)
        if status is None or not status.is_directory:
            return []
        return sorted(self._names(self.resolve(directory)))

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
        self._create(part, content)
        uid, gid = owner if owner else (before.uid, before.gid) if before else (0, 0)
        self._chown(part, uid, gid)
        # After the owner, whose change clears setuid and setgid.
        self._chmod(part, mode if mode is not None else _mode_of(before))
        self._rename(part, real)
        self._changed()
        return real

    def write_text(self, path: str, text: str) -> str:
        """:meth:`write` for text from :meth:`text`, keeping mode and owner."""
        return self.write(path, text.encode("utf-8", "surrogateescape"))

    def link(self, path: str, target: str) -> None:
        """Make ``path`` a symbolic link to ``target``, replacing a file or link."""
        real = self.destination(path)
        self.make_directory(real.rpartition("/")[0] or "/")
        if self.lstat(real) is not None:
            self._remove(real)
        self._symlink(real, target)
        self._changed()

    def make_directory(self, path: str) -> str:
        """Make ``path`` and its parents (0755, root) where missing; returns its real name."""
        real = self.resolve(path)
        status = self.lstat(real)
        if status is None:
            self._mkdir(real)
            self._changed()
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
        self._remove(real)
        self._changed()
        return True

    def chown(self, real: str, owner: tuple[int, int]) -> None:
        """Change the owner (uid, gid) of a real name, of a link itself if it is one."""
        self._chown(real, *owner)
        self._changed()

    def chmod(self, real: str, mode: int) -> None:
        """Change the permission bits of a real name that is no link."""
        self._chmod(real, mode)
        self._changed()

    def below(self, real: str) -> Iterator[str]:
        """Every name below a real directory, links not followed; a directory before its own."""
        pending, found = [real], 0
        while pending:
            directory = pending.pop()
            for name in sorted(self._names(directory)):
                path = f"{directory.rstrip('/')}/{name}"
                found += 1
                if found > MAX_BELOW:
                    raise GuestError(f"has more than {MAX_BELOW} files", where=real)
                yield path
                status = self.lstat(path)
                if status is not None and status.is_directory:
                    pending.append(path)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _mode_of(before: Status | None) -> int:
    """The permission bits of a file that takes the place of ``before``."""
    return stat.S_IMODE(before.mode) if before else 0o644
