"""Values that follow from a spec or a name, by the same rule wherever they are asked for. Pure.

The same spec always has the same MACs and UUID, so that a rebuilt guest keeps its DHCP lease and
its place in a toolstack's database.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagekit.errors import SpecError

if TYPE_CHECKING:
    from imagekit.spec.model import Disk, Spec

VARIABLE = "SOURCE_DATE_EPOCH"
"""https://reproducible-builds.org/specs/source-date-epoch/"""
DEFAULT_EPOCH = 1_700_000_000
"""The time of builds, seconds since 1970, that nothing else gives one: 2023-11-14."""
XEN_PREFIX = "00:16:3e"
"""Xen's own MAC prefix (Xensource OUI); libxl makes random addresses in it."""
VHD_STEP_BYTES = 2 << 20
VHD_MAX_BYTES = 2040 << 30
"""Where the users of the format end (vhd-util, Hyper-V)."""


@dataclass(frozen=True)
class Salt:
    """What keeps names of one kind apart from the same names of another."""

    namespace: uuid.UUID
    card: str

    def uuid(self, name: str) -> str:
        """The UUID of the domain ``name``, version 5 (RFC 4122), in lower case."""
        return str(uuid.uuid5(self.namespace, name))

    def mac(self, name: str, index: int) -> str:
        """The MAC of the NIC ``index``, from 0, of the domain ``name``."""
        digest = hashlib.sha256(f"{name} {self.card} {index}".encode()).digest()
        return f"{XEN_PREFIX}:{digest[0] & 0x7F:02x}:{digest[1]:02x}:{digest[2]:02x}"


BUILT = Salt(uuid.UUID("6f1f7ad7-6d3c-5f0e-9d3a-2f5c8b1e4a60"), "vif")
"""Guests of a spec."""
CLONED = Salt(uuid.UUID("c1b7a2de-9d5c-5a0f-8f63-0d3b7b9e2f14"), "guest vif")
"""Clones of a golden image, which may have the name of the spec that it was built from."""


def mac_of(spec: Spec, index: int) -> str:
    """The MAC of the NIC ``index`` of ``spec``: the one given, else derived from the name."""
    return spec.nics[index].mac or BUILT.mac(spec.name, index)


def uuid_of(spec: Spec) -> str:
    """The domain's UUID: the one given, else derived from the name."""
    return spec.uuid or BUILT.uuid(spec.name)


def vhd_size(size_bytes: int) -> int:
    """The disk size in bytes a VHD has that holds ``size_bytes``: whole 2 MiB, at least one.

    XenServer's storage manager rounds to 2 MiB as well; Azure asks for whole MiB. Raises SpecError
    above 2040 GiB, the limit of the format's users.
    """
    size = max(-(-size_bytes // VHD_STEP_BYTES), 1) * VHD_STEP_BYTES
    if size > VHD_MAX_BYTES:
        raise SpecError(
            f"a disk of {size_bytes} bytes does not fit a VHD, which ends at 2040 GiB",
            hint="use raw or qcow2, or a smaller disk",
        )
    return size


def effective_disk(disk: Disk) -> Disk:
    """The disk as it is made: VHD knows whole 2 MiB only, and all formats must be the same disk.

    Raises SpecError for a disk that is to be a VHD and does not fit one.
    """
    if "vhd" not in disk.formats:
        return disk
    return disk.model_copy(update={"size": vhd_size(disk.size)})


def source_date_epoch(environment: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH of ``environment``, seconds since 1970; None where it is not set.

    Raises SpecError for what is not a number of seconds.
    """
    value = environment.get(VARIABLE, "")
    if not value:
        return None
    if not (value.isascii() and value.isdigit()):
        raise SpecError(f"{VARIABLE} is not a number of seconds", where="environment")
    return int(value)


def disk_seed(spec_sha256: str, epoch: int | None) -> str | None:
    """What the identifiers of a disk follow from; None makes them random, as without an epoch."""
    return None if epoch is None else f"{spec_sha256} {epoch}"
