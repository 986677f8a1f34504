"""The manifest of a build: what was made of what, with which digests. Nothing else reads or writes
its JSON.

A build directory can be another user's and a bundle a stranger's, so a manifest is read as hostile:
bounded, every field checked, every path held inside the directory the manifest lies in. Keys that
this version does not know are kept; the form of a key changes only with ``manifest_version``.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    ValidationError,
)

from imagekit.errors import SpecError
from imagekit.spec.faults import faults
from imagekit.spec.model import Proof
from imagekit.spec.values import Sha256

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
MAX_PATH_CHARACTERS = 1024
HINT = "name a directory that imagekit build made"


def inside(path: str) -> str:
    """``path`` itself, relative and without a way out of its directory; raises ValueError."""
    if not path or len(path) > MAX_PATH_CHARACTERS or not path.isprintable():
        raise ValueError("is not a path of a file")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the build")
    return path


def _no_directory(name: str) -> str:
    """``name`` unless it means another directory: a build's default place is named by it."""
    if name in (".", ".."):
        raise ValueError(f"{name!r} is no name of a guest")
    return name


Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,1000}$")]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/]{1,255}$"), AfterValidator(_no_directory)]
InsidePath = Annotated[str, AfterValidator(inside)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, populate_by_name=True)


class Section(RootModel[dict[str, JsonValue]]):
    """What another package writes and reads: facts and kernel each have one reader of their own."""

    model_config = ConfigDict(frozen=True, strict=True)


class Artefact(_Part):
    """One file of the build: ``path`` is below the directory of the manifest, sizes are in bytes.

    ``format`` and ``virtual_size_bytes`` (what the guest sees) are a disk's, ``toolstack`` and
    ``mode`` a domain config's, ``stage`` a log's.
    """

    role: Line
    path: InsidePath
    format: Line | None = None
    virtual_size_bytes: Bytes | None = Field(None, alias="virtual_size")
    toolstack: Line | None = None
    mode: Line | None = None
    stage: Line | None = None
    sha256: Sha256
    size_bytes: Bytes = Field(alias="bytes")


class GuestOs(_Part):
    """The operating system that was asked for."""

    distribution: Line
    suite: Line


class PackageRecord(_Part):
    """A package in the image."""

    name: Line
    version: Line
    architecture: Line


class StageRecord(_Part):
    """A stage of the build, its key in the store, and what it took."""

    name: Line
    key: Line
    cached: bool
    seconds: float = Field(ge=0, allow_inf_nan=False)


class Manifest(_Part):
    """What a build directory or a bundle holds.

    ``kernel_report`` is read by :func:`imagekit.kernel.report.kernel_of`, ``facts`` by
    :func:`imagekit.domain.facts.facts_of`. ``guest`` is in a provisioned guest's bundle alone.
    """

    manifest_version: Literal[1] = 1
    name: Name
    spec_sha256: Sha256 | None = None
    imagekit: Line | None = None
    install_method: Line | None = None
    os: GuestOs | None = None
    proof: Proof | None = None
    guest: Section | None = None
    kernel_report: Section | None = Field(None, alias="kernel")
    facts: Section | None = None
    packages: tuple[PackageRecord, ...] | None = None
    stages: tuple[StageRecord, ...] | None = None
    tools: dict[str, Line] | None = None
    artefacts: tuple[Artefact, ...] = ()

    def having(self, *roles: str) -> tuple[Artefact, ...]:
        """The artefacts with one of ``roles``."""
        return tuple(a for a in self.artefacts if a.role in roles)

    @property
    def disks(self) -> tuple[Artefact, ...]:
        """The disk, once in each format that was made."""
        return self.having("disk")

    @property
    def disk_digests(self) -> dict[str, str]:
        """SHA-256 of each disk by path."""
        return {disk.path: disk.sha256 for disk in self.disks}

    @property
    def kernel(self) -> Artefact | None:
        """The kernel that was taken out of the image."""
        return next(iter(self.having("kernel")), None)

    @property
    def initrd(self) -> Artefact | None:
        """The initrd that goes with :attr:`kernel`."""
        return next(iter(self.having("initrd")), None)

    def configs(self, toolstack: str | None = None) -> tuple[Artefact, ...]:
        """The domain configs, all of them or those for ``toolstack``."""
        found = self.having("domain-config")
        return tuple(a for a in found if toolstack is None or a.toolstack == toolstack)


def manifest_text(manifest: Manifest) -> str:
    """``manifest`` as it is written."""
    value: dict[str, Any] = manifest.model_dump(mode="json", by_alias=True)
    # What is not there is left out; a null within a section means something to its reader.
    value = {key: item for key, item in value.items() if item is not None}
    value["artefacts"] = [
        {key: item for key, item in artefact.items() if item is not None}
        for artefact in value["artefacts"]
    ]
    return json.dumps(value, indent=2) + "\n"


def read_manifest(build: Path) -> Manifest:
    """The manifest in the directory ``build``; raises SpecError naming the file and the field."""
    path = build / MANIFEST
    try:
        # Not blocking: a pipe in its place must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SpecError("is not a file", where=str(path), hint=HINT)
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise SpecError(
            f"is not a build directory, its manifest cannot be read: {error.strerror}",
            where=str(path),
            hint=HINT,
        ) from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in ``data`` (JSON); raises SpecError naming ``where`` and the field."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise SpecError(f"the manifest is over {MAX_MANIFEST_BYTES >> 20} MiB", where=where)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = faults(error, Manifest)[0]
    what = f"the manifest: {first.what}"
    hint = HINT
    if first.field == "manifest_version":
        what = "the manifest has a form that this imagekit does not know"
        hint = "use the version of imagekit that wrote it, or build again"
    raise SpecError(what, where=f"{where}: {first.field}" if first.field else where, hint=hint)


def file_in(build: Path, path: str) -> Path:
    """The file ``path`` of the build in the directory ``build``, absolute.

    Raises SpecError when the path, or a link on its way, leads out of the directory.
    """
    try:
        whole = build.absolute() / inside(path)
        if whole.resolve().is_relative_to(build.resolve()):
            return whole
        what = f"{path} is a link that leads out of the build"
    except (ValueError, OSError, RuntimeError) as error:
        what = str(error)
    raise SpecError(what, where=str(build), hint="put the file itself into the build directory")
