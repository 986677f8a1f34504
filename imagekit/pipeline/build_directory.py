"""The directory of a build: what an earlier build left there, and whether it may be written to.

It is held open while it is written to, so that nobody who can change what its path leads through
sends writes and deletes elsewhere; and it is refused when others may write to it, for whoever
can could put their files in the place of what a build has made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagekit.errors import BusyError, ExistsError, HostError, SpecError
from imagekit.host.opening import Held, regular
from imagekit.host.ownership import name_of, other_writers, owner_is_trusted
from imagekit.host.strangers import make_folder, open_path, require_private_path
from imagekit.pipeline.record import marks
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import cache_root
from imagekit.spec.manifest import Manifest, inside, read_manifest

STATE = ".imagekit-state.json"
MAX_STATE_BYTES = 16 << 20
OURS = ".imagekit-"
_ANOTHER = "choose another directory with -o, or pass --force"
_Identity = tuple[int, int] | None


@dataclass(frozen=True)
class BuildDirectory:
    """The directory of a build: what is in it, and whether it may be written to.

    ``digest`` gives the SHA-256 of a file of it.
    """

    path: Path
    digest: Callable[[Path], str] = digest_file
    _seen: list[_Identity] = field(default_factory=list, repr=False, compare=False)

    def manifest(self) -> Manifest | None:
        """The manifest, or None when there is none that can be read."""
        try:
            return read_manifest(self.path)
        except SpecError:
            return None

    @contextlib.contextmanager
    def held(self, *, make: bool = False) -> Iterator[Held]:
        """The open directory, made if asked; refused (HostError) when others may write to it.

        Raises FileNotFoundError when it is not there, SpecError behind a stranger's link, OSError.
        """
        made = make and self._make()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if made else 0)
        held = Held(open_path(self.path, flags))
        try:
            self._refuse_writers(held.fd)
            if make and not made:
                self._refuse_another(held)
            yield held
        finally:
            held.close()

    def _make(self) -> bool:
        parent = make_folder(self.path.parent)
        try:
            os.mkdir(self.path.name, 0o755, dir_fd=parent)
        except FileExistsError:
            return False
        finally:
            os.close(parent)
        return True

    def _refuse_writers(self, fd: int) -> None:
        status = os.fstat(fd)
        if not owner_is_trusted(status):
            raise HostError(
                f"belongs to {name_of(status.st_uid)}, who could change what is built there",
                where=str(self.path),
                hint="choose a directory of your own with -o, or make this one yours with chown",
            )
        if writers := other_writers(fd):
            raise HostError(
                f"is writable for {writers}, who could change what is built there",
                where=str(self.path),
                hint=f"chmod go-w {self.path} (and setfacl -b, if it has an access control "
                "list), or choose another directory with -o",
            )

    def _refuse_another(self, held: Held) -> None:
        """Raise HostError unless it is what :meth:`refuse_strangers` saw, or a new empty one."""
        if not self._seen:
            return
        status = os.fstat(held.fd)
        if self._seen[-1] != (status.st_dev, status.st_ino) and (self._seen[-1] or held.names()):
            raise HostError(
                "another directory was put in its place while it was built",
                where=str(self.path),
                hint="choose a directory with -o above which nobody else may write",
            )

    def state(self) -> dict[str, Any]:
        """What the last delivery left here (paths, sizes, times), empty when nothing is known.

        Raises SpecError for a state that no delivery wrote, HostError as :meth:`held`.
        """
        try:
            with self.held() as root:
                value = json.loads(root.read(STATE, MAX_STATE_BYTES) or b"{}")
        except (OSError, ValueError, RecursionError):
            return {}
        except SpecError as error:
            error.where = str(self.path / STATE)
            raise
        if not isinstance(value, dict):
            return {}
        prints = value.get("fingerprints", {})
        for name in prints if isinstance(prints, dict) else [str(prints)]:
            self._require_plain(name)
        return value

    def _require_plain(self, name: str) -> None:
        if not is_plain(name):
            raise SpecError(
                f"it names {name[:200]!r}, which is no file of a build",
                where=str(self.path / STATE),
                hint="no build wrote that: look what is in the directory, and remove this file",
            )

    def refuse_strangers(self, name: str, *, force: bool) -> None:
        """Raise ExistsError when writing here would overwrite what no build of ``name`` made.

        Raises HostError, whatever ``force`` says, when others may write here.
        """
        try:
            with self.held() as root:
                status = os.fstat(root.fd)
                self._seen.append((status.st_dev, status.st_ino))
                if not force:
                    self._refuse_contents(name, root)
        except FileNotFoundError:
            self._seen.append(None)
        except NotADirectoryError:
            raise ExistsError(f"{self.path} exists and is not a directory") from None
        except OSError as error:
            raise HostError(f"cannot open it: {error.strerror}", where=str(self.path)) from None

    def _refuse_contents(self, name: str, root: Held) -> None:
        if all(known.startswith(OURS) for known in root.names()):
            return
        manifest, state = self.manifest(), self.state()
        owner = manifest.name if manifest else state.get("name")
        if owner is None:
            raise ExistsError(
                f"{self.path} is not empty and is not a build directory", hint=_ANOTHER
            )
        if owner != name:
            raise ExistsError(f"{self.path} holds the build of {owner}", hint=_ANOTHER)
        if state.get("delivering"):
            return
        for relative in state.get("fingerprints", {}):
            with contextlib.suppress(FileNotFoundError):
                if self._was_changed(root, relative, state):
                    raise ExistsError(
                        f"{self.path / relative} was changed since it was built",
                        hint="keep it and choose another directory with -o, or pass --force",
                    )

    def _was_changed(self, root: Held, name: str, state: dict[str, Any]) -> bool:
        """Whether somebody wrote to it: it has another time, and is not what was delivered.

        With its old time it is a copy, or a damaged one.
        """
        size, changed, _inode = marks(root.status(name))
        known = state["fingerprints"][name]
        return [size, changed] != known[:2] and not self._is_same(root, name, state)

    def _is_seen(self, root: Held, name: str, state: dict[str, Any]) -> bool:
        return bool(list(marks(root.status(name))) == state["fingerprints"][name])

    def _is_same(self, root: Held, name: str, state: dict[str, Any]) -> bool:
        """Whether it has the digest that it was delivered with, which older builds did not note."""
        known = state.get("sha256", {}).get(name)
        if known is None:
            return False
        with root.below(name) as (folder, last), regular(folder.fd, last) as fd:
            return bool(self.digest(Path(f"/proc/self/fd/{fd}")) == known)

    def intact(self, plan_digest: str, *, verify: bool = False) -> bool:
        """Whether everything of the plan was delivered here and is as it was delivered.

        What was copied here, or touched, is read and has to have the digest that it was delivered
        with; with ``verify`` everything is read. Raises as :meth:`state`.
        """
        state = self.state()
        if state.get("delivering") or state.get("plan") != plan_digest:
            return False
        try:
            with self.held() as root:
                names = list(state["fingerprints"])
                read = [n for n in names if verify or not self._is_seen(root, n, state)]
                if not all(self._is_same(root, name, state) for name in read):
                    return False
                for name in read:
                    state["fingerprints"][name] = list(marks(root.status(name)))
                if read:
                    root.write(STATE, json.dumps(state))
                return True
        except (OSError, KeyError, SpecError):
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second build; raises BusyError at once."""
        locks = cache_root() / "locks"
        os.close(make_folder(locks, 0o700))
        name = hashlib.sha256(os.fsencode(self.path.absolute())).hexdigest()[:32]
        fd = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BusyError(f"another build is writing to {self.path}") from None
            yield
        finally:
            os.close(fd)


def require_own_build(path: Path) -> None:
    """Raise HostError unless what is in the build ``path`` can be believed: strangers can neither
    write to it nor put another directory in its place. Raises SpecError when it is not there."""
    if not path.exists():
        raise SpecError(
            "there is no such build directory",
            where=str(path),
            hint="name a directory that imagekit build made; by default it is build/NAME",
        )
    require_private_path(
        path,
        "copy it to a directory of your own, or make it yours with chown and chmod go-w; so must "
        "be the directories above it",
    )


def is_plain(name: str) -> bool:
    """Whether ``name`` is a relative path to something below a directory."""
    try:
        return bool(Path(inside(name)).name)
    except ValueError:
        return False
