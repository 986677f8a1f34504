"""What a plan depends on besides its spec: read once, before planning, and then no more.

Stages take what they need from here, so that planning reads no variable of the environment and no
secret, and a build that a bundle or a lock asks for is planned like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from imagekit.errors import SpecError
from imagekit.host.apt_sources import NO_ARCHIVE, Archive
from imagekit.pipeline.events import Events
from imagekit.spec.base import Secret
from imagekit.spec.derived import VARIABLE, disk_seed, source_date_epoch
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import EpochFrom, Lock
from imagekit.spec.model import Spec

# crypt(5): a hash, or "*" and "!" for accounts nobody may log in to by password.
_HASH = re.compile(r"[*!]|!?\$[0-9a-z]+\$[./A-Za-z0-9$=,+-]{8,}|[./A-Za-z0-9]{13}")


@dataclass(frozen=True)
class BuildContext:
    """A spec and everything else that a build of it depends on.

    ``out`` is where the configs say that the files are, an absolute path. ``epoch`` is
    SOURCE_DATE_EPOCH, seconds since 1970, or None, and ``epoch_from`` where it is from. ``secrets``
    are crypt hashes by account name, which must never be shown. With ``lock`` exactly what that
    names is installed, from the directory ``debs`` if one is given.

    ``host`` is the archive as this build host's apt names it; ``archive`` is a digest of what its
    mirrors hold (:mod:`imagekit.installs.start`), which keys have in the place of names. ``unique``
    is random text from which identifiers follow instead of from the spec.
    """

    file: SpecFile
    out: Path
    epoch: int | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    lock: Lock | None = None
    debs: Path | None = None
    epoch_from: EpochFrom = "environment"
    host: Archive = NO_ARCHIVE
    archive: str = ""
    unique: str = ""

    @property
    def spec(self) -> Spec:
        """The guest's spec."""
        return self.file.spec

    @property
    def image_sha256(self) -> str:
        """Digest of what the image is made of, as its lock has it: identifiers follow from it."""
        return self.lock.spec_sha256 if self.lock else self.file.image_sha256

    @property
    def seed(self) -> str | None:
        """What the identifiers of the disk follow from; None makes them random."""
        locked = self.lock.seed if self.lock else ""
        return self.unique or locked or disk_seed(self.image_sha256, self.epoch)

    @property
    def environment(self) -> dict[str, str | None]:
        """Variables that the tools of the build see; None for one that they must not see."""
        return {VARIABLE: None if self.epoch is None else str(self.epoch)}

    def hide_secrets(self, events: Events) -> None:
        """Keep the secrets out of everything that ``events`` tells."""
        for secret in self.secrets.values():
            events.hide(secret)


def context_for(
    file: SpecFile,
    out: Path,
    environment: Mapping[str, str],
    *,
    lock: Lock | None = None,
    debs: Path | None = None,
) -> BuildContext:
    """What building ``file`` depends on, of the variables in ``environment`` and of secret files.

    A lock of packages brings its own SOURCE_DATE_EPOCH. Raises SpecError for a secret that is not
    there, and for a lock of another spec.
    """
    if lock is not None and not file.fits(lock.spec_sha256):
        raise SpecError(
            "the spec is not the one the lock was made for",
            where=str(file.path),
            hint="build without --locked to make a new lock, and compare: imagekit lock diff",
        )
    epoch = source_date_epoch(environment)
    origin: EpochFrom = "environment"
    if lock is not None and lock.has_epoch:
        epoch, origin = lock.source_date_epoch, lock.epoch_from
    secrets = MappingProxyType(read_secrets(file, environment))
    return BuildContext(file, out.absolute(), epoch, secrets, lock, debs, origin)


def read_secrets(file: SpecFile, environment: Mapping[str, str]) -> dict[str, str]:
    """Every secret of a spec by account name; these must never be shown. Raises SpecError."""
    identity = file.spec.identity
    found = {}
    if identity.root_password:
        loc: tuple[str | int, ...] = ("identity", "root_password")
        found["root"] = _secret(file, identity.root_password, environment, loc)
    for index, user in enumerate(identity.users):
        if user.password:
            loc = ("identity", "users", index, "password")
            found[user.name] = _secret(file, user.password, environment, loc)
    return found


def _secret(
    file: SpecFile, secret: Secret, environment: Mapping[str, str], loc: tuple[str | int, ...]
) -> str:
    """The crypt hash that ``secret`` names; raises SpecError, never showing the value."""
    where = file.where(*loc)
    if secret.env is not None:
        value = environment.get(secret.env)
        if value is None:
            raise SpecError(
                f"the environment has no variable {secret.env}",
                where=where,
                hint="export it, or name a file: {file: PATH}",
            )
    else:
        path = file.resolve(secret.file or "")
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            raise SpecError(f"cannot read the secret in {path}", where=where) from None
        value = lines[0] if lines else ""
    value = value.strip()
    if not _HASH.fullmatch(value):
        raise SpecError(
            "the secret is not a crypt hash; a plain password is never accepted",
            where=where,
            hint="make one: mkpasswd --method=yescrypt",
        )
    return value
