"""A small domU and the facts of an image, to be changed by a test where it matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from oracles.manifests import write_manifest

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Disk, Domain, Nic

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
DISK = Disk("/srv/xen/web1.img")
NIC = Nic("00:16:3e:10:20:30", bridge="xenbr0")


def machine(**changes: Any) -> Domain:
    """A PV domU that pygrub boots."""
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": "pv",
        "memory_mib": 512,
        "vcpus": 2,
        "boot": model.Pygrub(),
        "disks": (DISK,),
        "nics": (NIC,),
    }
    return Domain(**{**values, **changes})


def hvm(**changes: Any) -> Domain:
    """The same as HVM guest, booted by firmware."""
    return machine(**{"mode": "hvm", "boot": model.Firmware(), **changes})


FACTS = BuildFacts(
    name="web1",
    uuid="5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
    memory_mib=512,
    vcpus=2,
    disks=(DiskFacts({"raw": "/b/web1.raw", "qcow2": "/b/web1.qcow2"}, 2 << 30),),
    pv=Verdict(True, ("ELF note ENTRY",)),
    pvh=Verdict(True, ("ELF note PHYS32_ENTRY",)),
    hvm=Verdict(True, ("bzImage",)),
    pygrub=PygrubView(True, "pygrub reads /boot/grub/grub.cfg on ext4"),
    nics=(model.Nic("00:16:3e:10:20:30", model="e1000"),),
    kernel="/b/vmlinuz",
    initrd="/b/initrd.img",
    cmdline="root=UUID=0f5e ro",
    boot_filesystem="ext4",
    grub_config="/boot/grub/grub.cfg",
    bootloader_bios=True,
)
"""An image that boots in every mode and by every path but UEFI."""

RELATIVE = replace(
    FACTS,
    kernel="vmlinuz",
    initrd="initrd.img",
    disks=(DiskFacts({"raw": "web1.raw", "qcow2": "web1.qcow2"}, 2 << 30),),
)
"""The same with paths in its build directory, as a manifest has them."""


def make_build(directory: Path, facts: BuildFacts) -> Path:
    """A build directory of which nothing is there but facts in the manifest."""
    directory.mkdir()
    write_manifest(directory, facts)
    return directory
