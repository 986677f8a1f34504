"""What all parts of a spec are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from imagekit.spec.faults import Misfit
from imagekit.spec.values import HostPath, Variable


class Model(BaseModel):
    """Base of all parts of a spec: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class Secret(Model):
    """A secret that is named, never written: a file's first line or an environment variable."""

    file: HostPath | None = None
    env: Variable | None = None

    @model_validator(mode="after")
    def _one(self) -> Secret:
        if (self.file is None) == (self.env is None):
            raise Misfit("name exactly one of file and env", hint="{file: PATH} or {env: VARIABLE}")
        return self
