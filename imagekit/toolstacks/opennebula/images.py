"""OpenNebula's image templates: the disks, and kernel and initrd for the files datastore.

Source: ``src/image/ImageTemplate.cc`` and the image template reference of OpenNebula 4.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain
from imagekit.domain.text import refuse
from imagekit.domain.vdev import parse_vdev
from imagekit.toolstacks.opennebula.quote import Attribute, Pair, source_path

_DATASTORE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Image:
    """An image to register: its ``role`` (a device, kernel, initrd), datastore and attributes."""

    role: str
    datastore: str
    pairs: tuple[Pair, ...]

    def template(self) -> str:
        """The text for ``oneimage create``."""
        return "".join(f"{Attribute(key, value, self.role)}\n" for key, value in self.pairs)


def image_name(domain: Domain, role: str) -> str:
    """The name of the image of a disk (by its device), the kernel or the initrd."""
    return f"{domain.name}-{role}"


def images(domain: Domain, facts: BuildFacts, datastore: str, files_datastore: str) -> list[Image]:
    """Every image the VM template refers to; raises SpecError for a path OpenNebula garbles."""
    for name, where in ((datastore, "datastore"), (files_datastore, "files_datastore")):
        if _DATASTORE.fullmatch(name) is None:
            refuse(f"{name!r} is not a datastore's name", where, "letters, digits and _ . -")
    found = [_disk_image(domain, facts, disk, i, datastore) for i, disk in enumerate(domain.disks)]
    boot = domain.boot
    if isinstance(boot, model.DirectKernel):
        for role, kind, path in (
            ("kernel", "KERNEL", boot.kernel),
            ("initrd", "RAMDISK", boot.initrd),
        ):
            if path is not None:
                pairs = (
                    ("NAME", image_name(domain, role)),
                    ("TYPE", kind),
                    ("PATH", source_path(path, f"boot.{role}")),
                )
                found.append(Image(role, files_datastore, pairs))
    return found


def _disk_image(
    domain: Domain, facts: BuildFacts, disk: Disk, position: int, datastore: str
) -> Image:
    kind = "CDROM" if disk.cdrom else "DATABLOCK" if position else "OS"
    pairs = [
        ("NAME", image_name(domain, disk.vdev)),
        ("TYPE", kind),
        ("PATH", source_path(disk.target or "", f"disks[{position}].target")),
        ("PERSISTENT", "NO"),
        ("DEV_PREFIX", parse_vdev(disk.vdev).bus),
    ]
    digest = _digest(facts, disk)
    if digest is not None:
        pairs.insert(1, ("DESCRIPTION", f"built by imagekit, sha256:{digest}"))
    return Image(disk.vdev, datastore, tuple(pairs))


def _digest(facts: BuildFacts, disk: Disk) -> str | None:
    for known in facts.disks:
        if known.paths.get(disk.format) == disk.target:
            digest = known.sha256.get(disk.format, "")
            return digest if _SHA256.fullmatch(digest) else None
    return None
