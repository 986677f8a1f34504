"""xm's words for disks, NICs and screens, shared by its two config forms.

The prefixes choose xend's back-end: ``phy:`` a block device, ``file:`` a file through a loop
device, ``tap:`` blktap, ``tap2:`` blktap2. xl strips them all (``libxlu_disk_l.l``).
"""

from __future__ import annotations

from imagekit.domain.model import Disk, Nic
from imagekit.toolstacks.literals import spec_value


def disk_uname(disk: Disk) -> str:
    """The disk's target with xend's prefix, as in ``phy:/dev/vg0/web1``; empty for no medium."""
    if disk.target is None:
        return ""
    return _prefix(disk) + disk.target


def _prefix(disk: Disk) -> str:
    driver = "aio" if disk.format == "raw" else disk.format
    if disk.backend == "tap":
        return f"tap2:tapdisk:{driver}:"
    if disk.format != "raw" or disk.backend == "qdisk":
        return f"tap:{driver}:"
    return "phy:" if disk.block or disk.backend == "phy" else "file:"


def disk_item(disk: Disk) -> str:
    """A disk as ``uname,vdev[:cdrom],mode``."""
    kind = ":cdrom" if disk.cdrom else ""
    return f"{disk_uname(disk)},{disk.vdev}{kind},{'r' if disk.readonly else 'w'}"


def nic_pairs(nic: Nic, where: str) -> list[tuple[str, str]]:
    """A NIC as xm's keys and values."""
    pairs = [
        ("mac", nic.mac),
        ("bridge", nic.bridge),
        ("ip", " ".join(nic.ips) or None),
        ("script", nic.script),
        ("type", nic.type),
        ("model", nic.model),
        ("rate", str(nic.rate) if nic.rate else None),
        ("vifname", nic.name),
    ]
    return [(key, spec_value(value, where)) for key, value in pairs if value is not None]
