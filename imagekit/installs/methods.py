"""The install methods: what a spec says of each, and how each is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from imagekit.errors import SpecError
from imagekit.installs import debootstrap, diskimage_builder, iso, netboot
from imagekit.installs.context import BuildContext
from imagekit.pipeline.plan import Plan
from imagekit.spec.install import (
    Debootstrap,
    DiskimageBuilder,
    InstallMethod,
    Iso,
    Netboot,
    method_name,
)
from imagekit.spec.model import accept_install_method


@dataclass(frozen=True)
class Method:
    """An install method: the model of ``install`` in a spec, and the planner of its builds.

    ``plan`` is pure: it downloads and writes nothing, and raises SpecError or HostError.
    """

    options: type[InstallMethod]
    plan: Callable[[BuildContext], Plan]

    @property
    def name(self) -> str:
        """What a spec calls it, in ``install.method``."""
        return method_name(self.options)


_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(Debootstrap, debootstrap.plan),
        Method(Iso, iso.plan),
        Method(Netboot, netboot.plan),
        Method(DiskimageBuilder, diskimage_builder.plan),
    )
}
METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)
"""Every method by its name."""


def add_method(method: Method) -> None:
    """Let specs name ``method``: it is in their schema from now on, and builds plan by it.

    For methods that are not imagekit's own, before the first spec is read. Raises ValueError for a
    name that is taken.
    """
    if method.name in _METHODS:
        raise ValueError(f"there is an install method {method.name} already")
    accept_install_method(method.options)
    _METHODS[method.name] = method


def method_called(name: str, where: str) -> Method:
    """The method ``name``, as the spec says at ``where``; raises SpecError."""
    if name not in _METHODS:
        raise SpecError(
            f"imagekit build cannot run a {name} installation",
            where=where,
            hint=f"use {', '.join(_METHODS)}; "
            "imagekit netboot publish serves network installations",
        )
    return _METHODS[name]
