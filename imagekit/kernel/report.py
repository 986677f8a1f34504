"""What was found out about a kernel, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagekit.kernel.initrd import Driver, Initrd


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
    """The drivers of one initrd, as the kernel that comes with it sees them."""

    name: str
    xen_blkfront: Driver
    xen_netfront: Driver
    init_system: str | None
    segments: int
    modules: int
    problems: tuple[str, ...]
    initrd: Initrd = field(repr=False, compare=False)

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
                for part in self.initrd.segments
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
