"""What was found out about a kernel, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagekit.errors import SpecError
from imagekit.kernel.initrd import Driver, Segment

if TYPE_CHECKING:  # a reader of kernels starts in half the time without pydantic
    from imagekit.spec.manifest import Manifest


@dataclass(frozen=True)
class Capability:
    """Whether something works, and what was read to know it."""

    capable: bool
    evidence: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """``{"capable": bool, "evidence": [str]}``."""
        return {"capable": self.capable, "evidence": list(self.evidence)}


@dataclass(frozen=True)
class DomLoader:
    """Whether the domain builder in dom0 can unpack the kernel (PV and PVH only).

    ``can_unpack`` is None when the kernel's compression is unknown.
    """

    can_unpack: bool | None
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class InitrdReport:
    """The drivers of one initrd, as the kernel that comes with it sees them; ``modules`` counts
    its kernel modules."""

    name: str
    xen_blkfront: Driver
    xen_netfront: Driver
    init_system: str | None
    segments: tuple[Segment, ...]
    modules: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """States and evidence of both drivers, and what kind of initrd it is."""
        drivers = {"xen_blkfront": self.xen_blkfront, "xen_netfront": self.xen_netfront}
        return {
            "name": self.name,
            **{
                name: {"state": driver.state, "evidence": [driver.evidence]}
                for name, driver in drivers.items()
            },
            "init_system": self.init_system,
            "segments": [
                {"codec": part.codec, "offset": part.offset, "size": part.size}
                for part in self.segments
            ],
            "modules": self.modules,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class KernelReport:
    """One kernel's verdicts, each with evidence.

    ``hvm`` says whether it boots as an HVM guest at all; ``pvhvm_drivers`` whether it then has
    Xen's own disk and network drivers (None: cannot be told from what was given). ``config`` are
    the Xen symbols of the configuration file, empty without one. ``unplugs_disks`` is true when
    the kernel takes the emulated disks away at boot, so that only xen_blkfront finds one.
    """

    name: str
    pv: Capability
    pvh: Capability
    hvm: Capability
    pvhvm_drivers: bool | None
    pvhvm_evidence: tuple[str, ...]
    arch: str
    release: str | None
    compression: str | None
    container: str
    payload_error: str | None
    dom0_loader: DomLoader
    initrd: InitrdReport | None
    config: Mapping[str, str]
    unplugs_disks: bool | None

    def to_json(self) -> dict[str, Any]:
        """JSON object; its first seven keys are a fixed interface, the rest explains them."""
        return {
            "pv": self.pv.to_json(),
            "pvh": self.pvh.to_json(),
            "hvm": self.hvm.to_json(),
            "pvhvm_drivers": self.pvhvm_drivers,
            "arch": self.arch,
            "release": self.release,
            "compression": self.compression,
            "pvhvm_evidence": list(self.pvhvm_evidence),
            "container": self.container,
            "payload_error": self.payload_error,
            "dom0_loader": {
                "can_unpack": self.dom0_loader.can_unpack,
                "evidence": list(self.dom0_loader.evidence),
            },
            "initrd": self.initrd.to_json() if self.initrd else None,
            "config": dict(self.config),
        }


@dataclass(frozen=True)
class Bootable:
    """What a build keeps of a kernel's report: the verdict on each mode, and its release."""

    pv: Capability
    pvh: Capability
    hvm: Capability
    release: str

    def capability(self, mode: str) -> Capability:
        """The verdict on one mode."""
        return {"pv": self.pv, "pvh": self.pvh, "hvm": self.hvm}[mode]


def bootable(report: KernelReport, release: str | None = None) -> Bootable:
    """The same of ``report``; ``release`` comes first, if the kernel package tells it."""
    return Bootable(report.pv, report.pvh, report.hvm, release or report.release or "")


def write_report(report: KernelReport, target: Path, release: str | None = None) -> None:
    """Write kernel.json, which :func:`read_report` reads; ``release`` as for :func:`bootable`."""
    value = {**report.to_json(), "release": bootable(report, release).release}
    target.write_text(json.dumps(value, indent=1))


def read_report(path: Path) -> Bootable:
    """What ``path``, a kernel.json of our own, says; raises SpecError."""
    return _bootable(json.loads(path.read_text()), str(path))


def kernel_of(manifest: Manifest, where: str) -> Bootable:
    """What ``manifest`` says of the build's kernel; raises SpecError naming ``where``."""
    report = manifest.kernel_report
    return _bootable(report.root if report else None, f"{where}: kernel")


def _bootable(value: object, where: str) -> Bootable:
    if not isinstance(value, dict):
        raise SpecError("is no report on a kernel", where=where)
    release = value.get("release")
    if not isinstance(release, str):
        raise SpecError("is not text", where=f"{where}.release")
    pv, pvh, hvm = (_capability(value.get(m), f"{where}.{m}") for m in ("pv", "pvh", "hvm"))
    return Bootable(pv, pvh, hvm, release)


def _capability(value: object, where: str) -> Capability:
    given = value if isinstance(value, dict) else {}
    capable, evidence = given.get("capable"), given.get("evidence")
    if not isinstance(capable, bool) or not isinstance(evidence, list):
        raise SpecError("is no verdict with its evidence", where=where)
    if not all(isinstance(line, str) for line in evidence):
        raise SpecError("has evidence that is not text", where=where)
    return Capability(capable, tuple(evidence))
