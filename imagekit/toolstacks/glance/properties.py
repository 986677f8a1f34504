"""The properties of an image, under their old and canonical names.

Source: openstack/nova 20.0.0, ``nova/objects/image_meta.py`` (which translates the old names);
openstack/glance, ``glance/common/utils.py`` for what it cannot store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.domain.text import one_line, refuse
from imagekit.domain.vdev import parse_vdev
from imagekit.errors import CapabilityError

Names = Literal["both", "legacy", "canonical"]

CANONICAL = {
    "vm_mode": "hw_vm_mode",
    "hypervisor_type": "img_hv_type",
    "architecture": "hw_architecture",
    "auto_disk_config": "hw_auto_disk_config",
    "root_device_name": "img_root_device_name",
}
"""Old name to canonical name (since Mitaka)."""

VIF_MODELS = ("e1000", "ne2k_pci", "netfront", "pcnet", "rtl8139")
"""What nova's libvirt driver lets Xen have."""

_OTHERS = ("os_type", "os_distro", "os_version", "os_command_line")
_OURS = {
    *CANONICAL,
    *CANONICAL.values(),
    *_OTHERS,
    *("kernel_id", "ramdisk_id", "hw_disk_bus", "hw_vif_model"),
}


@dataclass(frozen=True)
class Property:
    """A property and the field of the domain or the facts it words."""

    key: str
    value: str
    field: str


def disk_properties(
    domain: Domain, facts: BuildFacts, *, xenapi: bool, names: Names, auto_disk_config: bool
) -> tuple[Property, ...]:
    """The properties of the image that boots, checked; raises SpecError or CapabilityError."""
    if auto_disk_config:
        _check_resizable(facts)
    found = [
        Property("vm_mode", "hvm" if domain.mode == "hvm" else "xen", "mode"),
        Property("hypervisor_type", "xen", "mode"),
        Property("architecture", "x86_64" if domain.arch == "x86_64" else "i686", "arch"),
        Property("os_type", "linux", "boot"),
        Property("auto_disk_config", str(auto_disk_config), "disks[0]"),
    ]
    for key, value in (("os_distro", facts.os_distribution), ("os_version", facts.os_version)):
        if value:
            found.append(Property(key, value, key))
    if not xenapi:
        found += _libvirt(domain)
    for key, raw in domain.raw:
        if key in _OURS:
            refuse(f"the property {key} is written by imagekit", f"raw.{key}", "leave it out")
        if isinstance(raw, tuple):
            refuse("a property is one value", f"raw.{key}", "write it as text")
        found.append(Property(key, str(raw), f"raw.{key}"))
    named = [renamed for item in found for renamed in _renamed(item, names)]
    for item in named:
        _check(item)
    return tuple(named)


def _libvirt(domain: Domain) -> list[Property]:
    disk = domain.disks[0]
    vdev = parse_vdev(disk.vdev, "disks[0].vdev")
    if vdev.bus == "sd":
        refuse("nova has no SCSI disks under Xen", "disks[0].vdev", "take xvda, or hda on HVM")
    found = [
        Property("root_device_name", f"/dev/{disk.vdev}", "disks[0].vdev"),
        Property("hw_disk_bus", "xen" if vdev.bus == "xvd" else "ide", "disks[0].vdev"),
    ]
    card = _vif_model(domain)
    if card is not None:
        found.append(Property("hw_vif_model", card, "nics"))
    if isinstance(domain.boot, model.DirectKernel) and domain.boot.cmdline:
        found.append(Property("os_command_line", domain.boot.cmdline, "boot.cmdline"))
    return found


def _vif_model(domain: Domain) -> str | None:
    wanted = {nic.model or ("netfront" if nic.type == "vif" else None) for nic in domain.nics}
    if domain.mode != "hvm" or wanted in (set(), {None}):
        return None
    if len(wanted) > 1:
        refuse("an image names one kind of NIC for all", "nics", "give all the same model")
    (card,) = wanted
    if card not in VIF_MODELS:
        refuse(f"nova has no {card} under Xen", "nics[0].model", f"one of {', '.join(VIF_MODELS)}")
    return card


def _check_resizable(facts: BuildFacts) -> None:
    """nova grows partition 1 if it is the only one and ext3 or ext4 (``vm_utils.py``)."""
    only = facts.partition_table == "mbr" or (
        facts.partition_table == "gpt" and not (facts.bootloader_bios or facts.bootloader_uefi)
    )
    if not only or facts.boot_filesystem.lower() not in ("ext3", "ext4"):
        raise CapabilityError(
            "auto_disk_config grows a single ext3 or ext4 partition, which the image is not: "
            f"{facts.partition_table}, {facts.boot_filesystem or 'no known file system'}",
            where="auto_disk_config",
            hint="leave it out, or build with an MBR and ext4",
        )


def _renamed(item: Property, names: Names) -> list[Property]:
    canonical = CANONICAL.get(item.key)
    if canonical is None or names == "legacy":
        return [item]
    new = Property(canonical, item.value, item.field)
    return [new] if names == "canonical" else [item, new]


def _check(item: Property) -> None:
    one_line(item.value, item.field, tab=True)
    if any(ord(character) > 0xFFFF for character in item.value):
        refuse(
            "holds a character beyond U+FFFF, which Glance does not store",
            item.field,
            "leave it out",
        )
