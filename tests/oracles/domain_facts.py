"""Facts of a build that fit a domain, for emitters that look at both."""

from __future__ import annotations

from typing import Any

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict

MIB = 1024 * 1024


def facts_for(domain: model.Domain, **changes: Any) -> BuildFacts:
    """Facts whose disks are those of ``domain``, of 10 MiB and more each."""
    yes = Verdict(True, ("made up",))
    disks = tuple(
        DiskFacts(
            paths={disk.format: disk.target},
            virtual_size=(10 + number) * MIB,
            vdev=disk.vdev,
            readonly=disk.readonly,
            sizes={disk.format: 5 * MIB},
            sha256={disk.format: f"{number:x}" * 64},
        )
        for number, disk in enumerate(domain.disks)
        if disk.target is not None
    )
    values: dict[str, Any] = {
        "name": domain.name,
        "uuid": domain.uuid,
        "memory_mib": domain.memory_mib,
        "vcpus": domain.vcpus,
        "disks": disks,
        "pv": yes,
        "pvh": yes,
        "hvm": yes,
        "pygrub": PygrubView(True, "made up"),
        "arch": domain.arch,
        "kernel_bytes": 8 * MIB,
        "initrd_bytes": 12 * MIB,
        "nics": domain.nics,
    }
    return BuildFacts(**(values | changes))
