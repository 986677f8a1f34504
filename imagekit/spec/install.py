"""The ``install`` part of a spec: one model per method, told apart by ``method``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from imagekit.spec.values import HostPath, PackageName, Word


class _Method(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Debootstrap(_Method):
    """Packages unpacked into a tree, the tree made into an image."""

    method: Literal["debootstrap"]
    tool: Literal["mmdebstrap", "debootstrap"] = "mmdebstrap"
    variant: Literal["minbase", "apt", "essential", "important", "standard"] = "minbase"
    packages: list[PackageName] = Field(default_factory=list)
    kernel: PackageName | HostPath | None = Field(
        None, description="Kernel package, or a vmlinuz file. Default: the distribution's."
    )
    initrd: HostPath | None = Field(None, description="With a kernel file: its initrd.")
    modules: HostPath | None = Field(
        None, description="With a kernel file: its /lib/modules/RELEASE directory."
    )
    initrd_modules: list[Word] = Field(
        default_factory=list, description="More drivers for the initrd."
    )


Install = Debootstrap


def install_methods() -> list[str]:
    """Names of the install methods, for messages."""
    return ["debootstrap"]
