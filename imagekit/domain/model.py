"""The neutral model of a domU: what a machine is, before any toolstack words it.

Emitters are functions of :class:`Domain` alone, and every Domain that exists is valid: making one
runs :func:`imagekit.domain.rules.validate`, which raises SpecError naming the field.  Its parts are
those of :mod:`imagekit.domain.parts`, to be had from here as well.

Nothing here is hashed or ordered by accident: ``disks[0]`` is the disk a bootloader in dom0 reads
(``tools/libs/light/libxl_bootloader.c``), and NICs keep their order (eth0, eth1 ...).
"""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.domain.parts import (
    DEFAULT_RATE_INTERVAL_US,
    MODES,
    Action,
    Arch,
    Backend,
    Boot,
    Cpu,
    DirectKernel,
    Disk,
    DiskFormat,
    Fields,
    Firmware,
    FirmwareKind,
    Mode,
    Netboot,
    Nic,
    NicType,
    Pvgrub,
    Pygrub,
    Rate,
    RawItem,
    RawValue,
    Vnc,
    parse_pins,
    pin_ranges,
)
from imagekit.domain.rules import validate

__all__ = [
    "DEFAULT_RATE_INTERVAL_US",
    "MODES",
    "Action",
    "Arch",
    "Backend",
    "Boot",
    "Cpu",
    "DirectKernel",
    "Disk",
    "DiskFormat",
    "Domain",
    "Firmware",
    "FirmwareKind",
    "Mode",
    "Netboot",
    "Nic",
    "NicType",
    "Pvgrub",
    "Pygrub",
    "Rate",
    "RawItem",
    "RawValue",
    "Vnc",
    "parse_pins",
    "pin_ranges",
]


@dataclass(frozen=True)
class Domain(Fields):
    """A domU, whole and valid; raises SpecError (``where`` is the field) when it is not."""

    def __post_init__(self) -> None:
        validate(self)
