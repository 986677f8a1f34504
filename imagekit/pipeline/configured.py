"""The store of a build: this host's, with a remote one behind it where one is set."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.pipeline.directory_remote import DirectoryRemote
from imagekit.pipeline.events import Events
from imagekit.pipeline.layered import LayeredStore
from imagekit.pipeline.result_store import ResultStore
from imagekit.pipeline.settings import settings
from imagekit.pipeline.store import Copy, Digest, Store

NONE = "none"
"""Set as remote, it means that there is none, whatever a weaker setting says."""


def configured_store(
    events: Events,
    digest: Digest,
    copy: Copy,
    *,
    verify: bool = False,
    remote: Path | None = None,
) -> ResultStore:
    """The local store, in front of the directory ``remote`` or the one that is set, if any.

    The relative path :data:`NONE` means none.

    ``digest``, ``verify``: see :class:`Store`; ``copy`` keeps holes. Raises HostError, and
    SpecError for a remote that cannot be one. Whether it can be reached is not asked here.
    """
    local = Store(digest=digest, verify=verify)
    place = remote_setting() if remote is None else None if remote == Path(NONE) else remote
    if place is None:
        return local
    place = place.absolute()
    if place.resolve().is_relative_to(local.root.resolve()):
        raise SpecError(
            f"{place} is in the store of this host, {local.root}",
            where="--store-remote" if remote is not None else "store.remote",
            hint="name a directory elsewhere, which other machines see too",
        )
    return LayeredStore(local, DirectoryRemote(place, copy), events)


def remote_setting() -> Path | None:
    """The directory that settings or environment name; raises SpecError for what is no path."""
    for setting in settings("store"):
        if not isinstance(setting.value, str) or "\0" in setting.value:
            raise SpecError("is no path of a directory", where=setting.where)
        if setting.value == NONE:
            return None
        path = Path(setting.value).expanduser()
        if not path.is_absolute():
            hint = "write the whole path, from / on"
            raise SpecError(
                f"{setting.value!r} is no absolute path", where=setting.where, hint=hint
            )
        return path
    return None
