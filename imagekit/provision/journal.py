"""What a provision made, written down before it is made, so that it can be undone exactly.

One file of JSON lines per guest below the state directory. A line is on disk before the thing it
names exists; a second line with the inode follows once it does, so that undoing removes nothing
that somebody else put in its place. The lock file beside it is held for as long as the guest is
worked on: a journal without its last line and without a lock holder was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagekit.disk.volume import remove_volume
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import DiskFormat, Mode
from imagekit.errors import BusyError, ExistsError, HostError, SpecError
from imagekit.host import tools
from imagekit.host.run import run
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.spec.faults import refusal
from imagekit.spec.manifest import Section

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
WIPE_BYTES = 1 << 20
PREFERRED: tuple[DiskFormat, ...] = ("raw", "qcow2", "vhd")
"""Formats of golden disks, the one to take first."""
HINT = "make it yours (chown, chmod go-w), or set IMAGEKIT_STATE to another directory"


def state_root() -> Path:
    """Where guests are recorded: $IMAGEKIT_STATE, /var/lib/imagekit for root, or XDG."""
    if os.environ.get("IMAGEKIT_STATE"):
        return Path(os.environ["IMAGEKIT_STATE"]).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/imagekit")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base) / "imagekit"


def guests_directory() -> Path:
    """The directory of the journals, made if needed."""
    path = state_root() / "guests"
    try:
        os.close(make_folder(path, 0o700))
    except OSError as error:
        raise HostError(
            f"cannot create {path}: {error.strerror}",
            hint="set IMAGEKIT_STATE to a directory you may write to",
        ) from None
    require_private_path(path, HINT)
    return path


def disk_of_base(directory: Path) -> tuple[Path, DiskFormat]:
    """The disk of the shared copy in ``directory``, and its format; raises SpecError without it."""
    for image_format in PREFERRED:
        disk = directory / f"disk.{image_format}"
        if disk.exists():
            return disk, image_format
    raise SpecError("a guest's shared golden disk is missing", where=str(directory))


class GuestRecord(BaseModel):
    """A finished guest, as the last line of its journal has it; earlier versions wrote less.

    ``files`` are paths by what they are for (disk, seed, config), ``request`` is what was asked
    for, ``golden`` the directory of its golden image.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    op: Literal["complete"] = "complete"
    name: str
    uuid: str | None = None
    golden: str | None = None
    golden_sha256: str | None = None
    size_bytes: int | None = Field(None, alias="size", ge=0)
    files: dict[str, str] = Field(default_factory=dict)
    request: Section | None = None
    facts_section: Section | None = Field(None, alias="facts")
    mode: Mode | None = None
    toolstack: str | None = None

    @property
    def facts(self) -> BuildFacts | None:
        """The facts of the guest, with absolute paths; raises SpecError for wrong ones."""
        if self.facts_section is None:
            return None
        return BuildFacts.from_json(self.facts_section.root, f"the guest {self.name}")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the keys that were written."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Journal:
    """The journal of one guest; use :func:`journal` to get one, locked."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All lines that are whole, the oldest first."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        found.append(value)
        return found

    def bases(self) -> list[Path]:
        """The directories of the shared copies that the guest stands on; :func:`disk_of_base`."""
        return [Path(str(e.get("path"))) for e in self.entries() if e.get("op") == "base"]

    @property
    def finished(self) -> bool:
        """Whether there is a whole guest, which nobody may sweep away."""
        return self._last() is not None

    def record(self) -> GuestRecord | None:
        """What the finished guest is; None when there is no finished one. Raises SpecError."""
        last = self._last()
        if last is None:
            return None
        try:
            return GuestRecord.model_validate(last)
        except ValidationError as error:
            raise refusal(error, GuestRecord, str(self.path)) from None

    def complete(self, record: GuestRecord) -> None:
        """Write the last line down: from now on the guest is a whole one."""
        self.add(**record.model_dump(mode="json", by_alias=True))

    def _last(self) -> dict[str, Any] | None:
        entries = self.entries()
        return entries[-1] if entries and entries[-1].get("op") == "complete" else None

    def add(self, op: str, **fields: Any) -> None:
        """Write a line down for good (fsync) before what it names is done."""
        data = json.dumps({"op": op, **fields}).encode() + b"\n"
        new = not self.path.exists()
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A line that a kill cut off must not swallow this one.
            os.write(fd, (b"" if new else b"\n") + data)
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            _sync_directory(self.path.parent)

    def directory(self, path: Path) -> Path:
        """Make the new directory ``path``; raises ExistsError when something is there."""
        if os.path.lexists(path):
            raise ExistsError("exists already", where=str(path), hint="choose another name")
        self.add("directory", path=str(path))
        path.mkdir(mode=0o700)
        self.add("made", path=str(path), inode=path.stat().st_ino)
        return path

    def link(self, path: Path, target: Path) -> None:
        """Make the symbolic link ``path``; raises ExistsError when something is there."""
        if os.path.lexists(path):
            raise ExistsError("exists already", where=str(path))
        self.add("link", path=str(path), target=str(target))
        path.symlink_to(target)

    def undo(self) -> None:
        """Undo every line, the newest first, and forget the guest. Raises ToolError, and then the
        journal stays, for another try."""
        entries = self.entries()
        inodes = {e.get("path"): e.get("inode") for e in entries if e.get("op") == "made"}
        for entry in reversed(entries):
            path = Path(str(entry.get("path", "")))
            match entry.get("op"):
                case "directory":
                    _remove_directory(path, inodes.get(entry.get("path")))
                case "link":
                    if path.is_symlink() and str(path.readlink()) == entry.get("target"):
                        path.unlink()
                case "device":
                    _wipe(path)
                case "volume":
                    remove_volume(*(str(entry.get(key)) for key in ("vg", "name", "tag")))
                case "domain":
                    _end_domain(entry)
                case _:
                    pass
        self.path.unlink(missing_ok=True)
        _sync_directory(self.path.parent)


def _remove_directory(path: Path, inode: int | None) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if inode is None:
        # Killed between the line and the directory, or right after it: ours only if empty.
        with contextlib.suppress(OSError):
            path.rmdir()
    elif status.st_ino == inode:
        shutil.rmtree(path)


def _wipe(device: Path) -> None:
    """Take away what makes half a disk look like a whole one: its first and last MiB."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            for start in (0, max(0, size - WIPE_BYTES)):
                os.pwrite(fd, bytes(min(WIPE_BYTES, size)), start)
            os.fsync(fd)
        finally:
            os.close(fd)


def _end_domain(entry: dict[str, Any]) -> None:
    """End the domain of this name and UUID, and let libvirt forget it; another's goes on."""
    name, uuid = str(entry.get("name")), str(entry.get("uuid"))
    if entry.get("toolstack") == "libvirt":
        virsh = ("virsh", "-c", "xen:///")
        if tools.find("virsh") is None:
            return
        if run([*virsh, "domname", uuid], check=False, timeout=60).returncode == 0:
            # It need not be running.
            run([*virsh, "destroy", uuid], check=False, timeout=60)
            run([*virsh, "undefine", uuid], timeout=60, what=f"undefining the domain {name}")
        return
    if tools.find("xl") is None:
        return
    running = run(["xl", "vm-list"], check=False, timeout=30).text
    if any(uuid in line and line.split()[-1] == name for line in running.splitlines()):
        run(["xl", "destroy", name], timeout=60, what=f"ending the domain {name}")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def journal(name: str) -> Iterator[Journal]:
    """The journal of the guest ``name``, locked; raises BusyError, or SpecError for a bad name."""
    if not NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is no name for a guest",
            where="NAME",
            hint="letters, digits and . _ + - only, at most 64",
        )
    directory = guests_directory()
    fd = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"another imagekit is working on the guest {name}") from None
        yield Journal(name, directory / f"{name}.journal")
    finally:
        os.close(fd)


def record_of(name: str) -> GuestRecord | None:
    """What the journal says of the finished guest ``name``, None if there is none.

    Raises SpecError for a record that cannot be read.
    """
    if not NAME.fullmatch(name):
        return None
    return Journal(name, guests_directory() / f"{name}.journal").record()


def recorded(unreadable: Callable[[SpecError], object] | None = None) -> dict[str, GuestRecord]:
    """Every finished guest by name, with what its journal says of it.

    ``unreadable`` gets the error of each record that cannot be read, and the others are still told;
    without it the first is raised.
    """
    found = {}
    for path in sorted(guests_directory().glob("*.journal")):
        try:
            record = Journal(path.stem, path).record()
        except SpecError as error:
            if unreadable is None:
                raise
            unreadable(error)
            continue
        if record is not None:
            found[path.stem] = record
    return found
