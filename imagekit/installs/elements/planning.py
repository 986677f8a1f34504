"""What the elements of a spec come to: which run, with which variables and packages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.elements import catalogue
from imagekit.installs.elements.catalogue import ENVIRONMENT, PHASES, Element
from imagekit.installs.elements.environment import base_environment
from imagekit.installs.elements.packages import planned_packages
from imagekit.installs.stages.mirrors import Mirrors
from imagekit.spec.load import SpecFile

NOT_OURS = {"bootloader", "block-device", "ramdisk", "dracut-ramdisk", "iso", "vm", "baremetal"}
"""Elements that make disks, boot loaders or ramdisks: imagekit does that itself."""
NEEDED = ("python3",)
"""package-installs, pkg-map and svc-map are Python programs that run in the tree."""


@dataclass(frozen=True)
class ElementPlan:
    """The resolved elements of a spec.

    ``provided`` tells that an element brings the root file system itself; ``packages`` are the
    names to install with the tree; ``environment`` is what every phase gets.
    """

    elements: tuple[Element, ...]
    provided: bool
    packages: tuple[str, ...]
    environment: Mapping[str, str]
    network: bool
    timeout: int

    def phases(self) -> list[str]:
        """The phases that run; the first and the last always do."""
        always = ("root.d", "cleanup.d")
        return [p for p in PHASES if p in always or any(e.scripts(p) for e in self.elements)]

    def shared_digest(self) -> str:
        """Digest of everything a script of any phase may use: all but the scripts themselves."""
        return catalogue.digest(
            (f"{e.name}/{path.relative_to(e.path)}", path)
            for e in self.elements
            for path in e.files()
            if not _is_script(e, path) and not path.name.startswith("README")
        )

    def phase_digest(self, phase: str) -> str:
        """Digest of the scripts that run in ``phase``."""
        return catalogue.digest(
            (f"{e.name}/{phase}/{name}", e.path / phase / name)
            for e in self.elements
            for name in e.scripts(phase)
        )


def _is_script(element: Element, path: Path) -> bool:
    parts = path.relative_to(element.path).parts
    return len(parts) == 2 and parts[0] in PHASES and parts[0] != ENVIRONMENT


def plan_elements(file: SpecFile, mirrors: Mirrors) -> ElementPlan | None:
    """The elements of a debootstrap spec, or None where it names none; raises SpecError."""
    install = file.spec.debootstrap
    if not install.elements:
        return None
    where = file.where("install", "elements")
    extra = [file.resolve(path) for path in install.element_path]
    try:
        elements, provided = catalogue.resolve(install.elements, extra)
        _refuse(elements)
        if provided and not install.element_network:
            raise SpecError(
                "one of the elements makes the root file system, and has no network to do so",
                hint="set install.element_network: true",
            )
        named = dict(install.element_environment)
        environment = base_environment(
            elements,
            named=install.elements,
            image=file.spec.name,
            distribution=file.spec.os.distribution,
            suite=file.spec.os.suite,
            arch=file.spec.os.arch,
            filesystem=file.spec.disk.filesystem,
            extra={**_mirror(mirrors), **named},
        )
        packages = planned_packages(
            elements,
            distribution=file.spec.os.distribution,
            suite=file.spec.os.suite,
            arch=file.spec.os.arch,
            environment=environment,
        )
    except SpecError as error:
        error.where = error.where or where
        raise
    return ElementPlan(
        tuple(elements),
        provided,
        tuple(sorted({*packages, *NEEDED})),
        environment,
        install.element_network,
        install.element_timeout,
    )


def _mirror(mirrors: Mirrors) -> dict[str, str]:
    lines = [line.split() for line in mirrors.public()]
    if not lines:
        return {}
    return {"DIB_DISTRIBUTION_MIRROR": lines[0][1], "DIB_DEBIAN_SECURITY_MIRROR": lines[-1][1]}


def _refuse(elements: list[Element]) -> None:
    for element in elements:
        makes_disk = "block-device" in element.provides or element.scripts("block-device.d")
        if element.name in NOT_OURS or makes_disk:
            raise SpecError(
                f"the element {element.name} makes a disk, a boot loader or a ramdisk, which "
                "imagekit does itself",
                hint="leave it out, or use install.method: diskimage-builder",
            )
