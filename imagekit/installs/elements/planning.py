"""What the elements of a spec come to: which run, with which variables and packages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.elements import catalogue
from imagekit.installs.elements.catalogue import (
    ENVIRONMENT,
    NO_DISK_ELEMENT,
    PHASES,
    ROOT_ELEMENT,
    SYSTEM_ELEMENT,
    TREE_ELEMENT,
    Element,
)
from imagekit.installs.elements.environment import HOST_PATHS, base_environment
from imagekit.installs.elements.packages import planned_packages
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.tree_packages import wanted_packages
from imagekit.spec.install import DiskimageBuilder
from imagekit.spec.load import SpecFile

NOT_OURS = {"bootloader", "block-device", "ramdisk", "dracut-ramdisk", "iso", "vm", "baremetal"}
"""Elements that make disks, boot loaders or ramdisks: imagekit does that itself."""
NEEDED = ("python3",)
"""package-installs, pkg-map and svc-map are Python programs that run in the tree."""


@dataclass(frozen=True)
class ElementPlan:
    """The resolved elements of a spec.

    ``provided`` tells that an element brings the root file system itself; ``packages`` are the
    names to install with the tree; ``environment`` is what every phase gets; ``added`` are names
    of elements of our own that the spec does not name. ``of_host`` are the variables of
    ``environment`` that only say where this host fetches packages, ``fetched`` its sources.list(5)
    lines, and ``guest`` those of the guest.
    """

    elements: tuple[Element, ...]
    provided: bool
    packages: tuple[str, ...]
    environment: Mapping[str, str]
    network: bool
    timeout: int
    added: tuple[str, ...] = ()
    of_host: frozenset[str] = frozenset()
    fetched: tuple[str, ...] = ()
    guest: tuple[str, ...] = ()

    def phases(self) -> list[str]:
        """The phases that run; the first and the last always do."""
        always = ("root.d", "cleanup.d")
        return [p for p in PHASES if p in always or any(e.scripts(p) for e in self.elements)]

    def keyed_environment(self) -> dict[str, str]:
        """The variables that can change a result."""
        ours = {*HOST_PATHS, *self.of_host}
        return {k: v for k, v in self.environment.items() if k not in ours}

    def shared_digest(self) -> str:
        """Digest of everything a script of any phase may use: all but the scripts themselves."""
        return catalogue.digest(
            (f"{e.name}/{path.relative_to(e.path)}", e, path)
            for e in self.elements
            for path in e.files()
            if not _is_script(e, path) and not path.name.startswith("README")
        )

    def phase_digest(self, phase: str) -> str:
        """Digest of the scripts that run in ``phase``."""
        return catalogue.digest(
            (f"{e.name}/{phase}/{name}", e, e.path / phase / name)
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
    plan = _plan(
        file,
        mirrors,
        install.elements,
        install.element_path,
        install.element_environment,
        (SYSTEM_ELEMENT,),
        (ROOT_ELEMENT,),
    )
    if plan.provided and not install.element_network:
        raise SpecError(
            "one of the elements makes the root file system, and has no network to do so",
            where=file.where("install", "elements"),
            hint="set install.element_network: true",
        )
    return replace(plan, network=install.element_network, timeout=install.element_timeout)


def plan_whole(file: SpecFile, install: DiskimageBuilder, mirrors: Mirrors) -> ElementPlan:
    """The elements of a diskimage-builder spec; raises SpecError.

    Where none of them provides an operating system, one of ours does, from imagekit's own tree.
    """
    added = (SYSTEM_ELEMENT, NO_DISK_ELEMENT)
    instead = (TREE_ELEMENT, NO_DISK_ELEMENT)
    plan = _plan(
        file, mirrors, install.elements, install.element_path, install.environment, added, instead
    )
    more = added if plan.provided else instead
    return replace(plan, network=True, timeout=install.timeout, added=more)


def _plan(
    file: SpecFile,
    mirrors: Mirrors,
    named: Sequence[str],
    element_path: Sequence[str],
    variables: Mapping[str, str],
    added: Sequence[str],
    instead: Sequence[str],
) -> ElementPlan:
    spec = file.spec
    fetched = _mirror(mirrors)
    # What only this host uses is no part of DIB_ENV, which elements write into the image.
    of_host = frozenset() if spec.os.mirror else frozenset(fetched) - set(variables)
    try:
        paths = [file.resolve(path) for path in element_path]
        _refuse(sorted(NOT_OURS & set(named)))
        elements, provided = catalogue.resolve(named, paths, added, instead)
        _refuse([e.name for e in elements if e.name in NOT_OURS or _makes_disk(e)])
        environment = base_environment(
            elements,
            named=named,
            image=spec.name,
            distribution=spec.os.distribution,
            suite=spec.os.suite,
            arch=spec.os.arch,
            filesystem=spec.disk.filesystem,
            extra={
                **{name: value for name, value in fetched.items() if name not in of_host},
                "DIB_IMAGEKIT_PACKAGES": " ".join(wanted_packages(spec)),
                **variables,
            },
        )
        environment |= {name: fetched[name] for name in of_host}
        packages = planned_packages(
            elements,
            distribution=spec.os.distribution,
            suite=spec.os.suite,
            arch=spec.os.arch,
            environment=environment,
        )
    except SpecError as error:
        error.where = error.where or file.where("install", "elements")
        raise
    return ElementPlan(
        elements=tuple(elements),
        provided=provided,
        packages=tuple(sorted({*packages, *NEEDED})),
        environment=environment,
        network=False,
        timeout=0,
        of_host=of_host,
        fetched=tuple(mirrors.public()),
        guest=tuple(mirrors.guest_lines()),
    )


def _mirror(mirrors: Mirrors) -> dict[str, str]:
    lines = [line.split() for line in mirrors.public()]
    if not lines:
        return {}
    return {"DIB_DISTRIBUTION_MIRROR": lines[0][1], "DIB_DEBIAN_SECURITY_MIRROR": lines[-1][1]}


def _makes_disk(element: Element) -> bool:
    if element.name == NO_DISK_ELEMENT:
        return False
    return "block-device" in element.provides or bool(element.scripts("block-device.d"))


def _refuse(names: Sequence[str]) -> None:
    if names:
        raise SpecError(
            f"the element {names[0]} makes a disk, a boot loader or a ramdisk, which imagekit does "
            "itself",
            hint="leave it out; disk: and boot: of the spec say how it is to be done",
        )
