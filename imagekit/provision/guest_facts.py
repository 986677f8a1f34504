"""The facts of one guest: those of its golden image with its own name, size, disks and NICs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from imagekit.domain.facts import BuildFacts, DiskFacts
from imagekit.domain.model import DiskFormat, Nic
from imagekit.provision.request import GuestRequest

_ROOT = re.compile(r"(?:^|\s)root=UUID=([0-9A-Fa-f-]{8,36})(?:\s|$)")


def root_uuid(facts: BuildFacts) -> str | None:
    """UUID of the root file system, as the kernel's command line names it."""
    match = _ROOT.search(facts.cmdline)
    return match[1] if match else None


def guest_facts(
    golden: BuildFacts,
    request: GuestRequest,
    *,
    disk: str,
    image_format: DiskFormat,
    size: int,
    kernel: str | None,
    initrd: str | None,
    seed: str | None,
) -> BuildFacts:
    """The facts of a guest; paths are absolute, ``size`` in bytes."""
    first = golden.disks[0]
    paths: Mapping[DiskFormat, str] = {image_format: disk}
    disks = [DiskFacts(paths, size, first.vdev, first.readonly)]
    if seed is not None:
        iso: Mapping[DiskFormat, str] = {"raw": seed}
        disks.append(DiskFacts(iso, 0, _next(first.vdev), readonly=True))
    maxmem = golden.maxmem_mib
    if request.memory is not None and maxmem is not None:
        maxmem = max(maxmem, request.memory)
    return replace(
        golden,
        name=request.name,
        uuid=request.domain_uuid,
        memory_mib=request.memory or golden.memory_mib,
        maxmem_mib=maxmem,
        vcpus=request.vcpus or golden.vcpus,
        disks=tuple(disks),
        nics=_nics(golden.nics, request),
        kernel=kernel,
        initrd=initrd,
        origins={},
    )


def _next(vdev: str) -> str:
    """The disk after ``vdev``: xvdb after xvda."""
    return vdev[:-1] + chr(ord(vdev[-1]) + 1)


def _nics(golden: tuple[Nic, ...], request: GuestRequest) -> tuple[Nic, ...]:
    nics = list(golden)
    if not nics and (request.mac or request.bridge or request.ip):
        nics.append(Nic(request.mac_of(0), request.bridge))
    made = []
    for index, nic in enumerate(nics):
        nic = replace(nic, mac=request.mac_of(index))
        if index == 0 and request.bridge:
            nic = replace(nic, bridge=request.bridge)
        if nic.ips:
            # They are what dom0 lets through; the golden image's own would lock the guest out.
            own = tuple(a.split("/")[0] for a in request.ip) if index == 0 else ()
            nic = replace(nic, ips=own)
        made.append(nic)
    return tuple(made)
