"""The lock of a build: what it was made of, exactly, in a YAML file fit for review and git."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagekit.errors import SpecError
from imagekit.spec.faults import refusal
from imagekit.spec.values import Sha256
from imagekit.spec.yamltext import yaml_reader

MAX_LOCK_BYTES = 16 << 20
MAX_SOURCE_CHARACTERS = 1000
MAX_LOCK_NODES = 2_000_000
HINT = "every build writes NAME.lock into its directory"
_PART = r"[A-Za-z0-9_+~:%-][A-Za-z0-9_.+~:%-]*"
PoolPath = Annotated[str, Field(pattern=rf"^({_PART}/)*{_PART}$", max_length=512)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+:~-]{1,200}$")]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]{1,127}$")]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,1000}$")]
_WORD = r"[^\x00-\x20\x7f\[\]]+"
_KEYRING = r'"?/usr/share/keyrings/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"?'
_SOURCE = re.compile(
    rf"#[^\x00-\x1f\x7f]*|deb(-src)? +(\[signed-by={_KEYRING}\] +)?"
    rf"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f]+( +{_WORD})+ *"
)


def _source(line: str) -> str:
    if len(line) > MAX_SOURCE_CHARACTERS or not _SOURCE.fullmatch(line):
        raise ValueError(
            "is no deb URL SUITE COMPONENT..., and no other option of apt than signed-by with a "
            "keyring of /usr/share/keyrings is taken from a lock"
        )
    return line


SourceLine = Annotated[str, AfterValidator(_source)]
"""A line of sources.list(5) for the guest, or a comment. mmdebstrap names a keyring in its own;
``trusted=yes`` would have the guest take packages from anybody.
"""


EpochFrom = Literal["environment", "archive", "default", "releases", "packages"]
"""Where the epoch of a lock is from: SOURCE_DATE_EPOCH, the newest Release file when the build
began, or neither. The build that wrote the lock had that epoch, but for "releases", and "packages"
with 0: imagekit wrote them before builds without SOURCE_DATE_EPOCH had one. "packages" is still
said of what an installer put there, which no epoch makes the same again.
"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedPackage(_Model):
    """One package file: ``path`` is below the archive's root, ``size`` in bytes."""

    name: PackageName
    version: Version
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9-]{2,32}$")]
    priority: Annotated[str, Field(pattern=r"^[a-z]{0,20}$")] = "optional"
    suite: Line = ""
    path: PoolPath
    size: int = Field(ge=0, le=8 << 30)
    sha256: Sha256

    @property
    def filename(self) -> str:
        """A file name that no other package of the lock has."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


class LockedRelease(_Model):
    """The Release file that vouched for packages; ``date`` in seconds since 1970."""

    suite: Line
    origin: Line = ""
    date: int = Field(0, ge=0, le=1 << 40)
    sha256: Sha256


class LockedElement(_Model):
    """A diskimage-builder element: ``path`` tells where it was, ``sha256`` is over its content."""

    name: Line
    path: Line
    sha256: Sha256


class InstalledPackage(_Model):
    """A package that an installer of its own put there: it tells no digest of the file."""

    name: Line
    version: Line
    architecture: Line


class Lock(_Model):
    """Everything outside the spec that decides what a build gives.

    ``seed`` is what the identifiers of its disk follow from; locks of earlier versions have none.
    """

    lock: Literal[1] = 1
    name: Line
    spec_sha256: Sha256
    method: Line
    source_date_epoch: int = Field(ge=0, le=1 << 34)
    epoch_from: EpochFrom = "environment"
    seed: Annotated[str, Field(pattern=r"^[A-Za-z0-9 ]{0,200}$")] = ""
    kernel: Line = ""
    iso_sha256: Sha256 | None = None
    keyring_sha256: Sha256 | None = None
    sources: list[SourceLine] = Field(default_factory=list, max_length=64)
    releases: list[LockedRelease] = Field(default_factory=list, max_length=64)
    inputs: dict[Line, Sha256] = Field(default_factory=dict, max_length=100_000)
    templates: dict[Line, Sha256] = Field(default_factory=dict, max_length=1000)
    tools: dict[Line, Line] = Field(default_factory=dict, max_length=100)
    elements: list[LockedElement] = Field(default_factory=list, max_length=1000)
    packages: list[LockedPackage] = Field(default_factory=list, max_length=100_000)
    installed: list[InstalledPackage] = Field(default_factory=list, max_length=100_000)

    @property
    def has_epoch(self) -> bool:
        """Whether builds of the lock take its epoch."""
        return self.epoch_from != "packages" or self.source_date_epoch > 0

    @property
    def repeats(self) -> bool:
        """Whether builds of the lock are byte for byte the build that wrote it."""
        return self.epoch_from not in ("releases", "packages")

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the tree: packages, sources, epoch."""
        value = self.model_dump_json(include={"source_date_epoch", "sources", "packages"})
        return hashlib.sha256(value.encode()).hexdigest()


def lock_text(lock: Lock) -> str:
    """``lock`` as YAML: one line per package, so that a diff shows what changed."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 100_000
    yaml.default_flow_style = None
    data: dict[str, Any] = lock.model_dump(mode="json", exclude_none=True)
    stream = io.StringIO()
    stream.write("# Written by imagekit: what this build was made of.\n")
    yaml.dump(data, stream)
    return stream.getvalue()


def read_lock(path: Path) -> Lock:
    """The lock in ``path``; raises SpecError for anything else."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise SpecError(
            f"cannot read the lock: {error.strerror}",
            where=str(path),
            hint=HINT,
        ) from None
    return parse_lock(data, str(path))


def parse_lock(data: bytes, where: str) -> Lock:
    """The lock in ``data`` (YAML); raises SpecError naming ``where``."""
    if len(data) > MAX_LOCK_BYTES:
        raise SpecError("the lock is larger than 16 MiB", where=where)
    try:
        value = yaml_reader(max_nodes=MAX_LOCK_NODES).load(data.decode())
        return Lock.model_validate(value)
    except ValidationError as error:
        refused = refusal(error, Lock, where, HINT)
        refused.what = f"not a lock: {refused.what}"
        raise refused from None
    except (YAMLError, ValueError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise SpecError(f"not a lock: {said}", where=where, hint=HINT) from None
