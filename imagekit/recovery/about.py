"""What the index of a bundle says of it, beside its members. Anybody can write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagekit.errors import VerificationError
from imagekit.spec.faults import refusal
from imagekit.spec.model import Spec

FORMAT: Final = 1


def secrets_of(spec: Spec) -> list[str]:
    """Names of the secrets that a build of ``spec`` needs: env:NAME or file:NAME."""
    found = [spec.identity.root_password, *(user.password for user in spec.identity.users)]
    return sorted({f"env:{s.env}" if s.env else f"file:{s.file}" for s in found if s is not None})


class About(BaseModel):
    """A bundle: of a build that is made again, of an image, or of a guest as it was.

    ``inputs`` and ``trees`` map what the spec calls a file or directory to the member that holds
    it, ``disks`` a disk to its SHA-256. ``secrets`` are the names of those that reinstalling needs
    (env:NAME, file:NAME), ``sealed`` the members that need a key. ``stripped`` says that a guest's
    secrets were taken out.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    bundle: Literal[1] = FORMAT
    kind: Literal["build", "image", "guest"] = "build"
    name: str
    imagekit: str
    spec_sha256: str | None = None
    source_date_epoch: int | None = None
    secrets: list[str] = Field(default_factory=list)
    disks: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    trees: dict[str, str] = Field(default_factory=dict)
    sealed: list[str] = Field(default_factory=list)
    stripped: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what is not said is left out."""
        return self.model_dump(mode="json", exclude_defaults=True) | {
            "bundle": self.bundle,
            "kind": self.kind,
            "sealed": self.sealed,
        }


def read_about(value: object, path: Path) -> About:
    """What the index of the bundle ``path`` says; raises VerificationError."""
    if isinstance(value, dict) and value.get("bundle") != FORMAT:
        raise VerificationError(
            f"is a bundle of the unknown form {value.get('bundle')!r}", where=str(path)
        )
    try:
        return About.model_validate(value)
    except ValidationError as error:
        said = refusal(error, About, str(path)).what
        raise VerificationError(f"index.json: {said}", where=str(path)) from None
