"""Every parser of strangers' bytes that imagekit has, by name."""

from __future__ import annotations

from ..target import Target
from . import disks, documents, kernel, menus, network, reports, requests, volumes, workers

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (kernel, menus, network, requests, disks, volumes, documents, reports, workers)
    for target in module.TARGETS
}
GUIDED = ("kernel", "initrd", "vhd", "qcow2", "grub.cfg", "pxelinux", "dhcp")
"""Those that ``make fuzz-long`` searches by coverage."""
