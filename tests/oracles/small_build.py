"""A build directory as ``imagekit build`` leaves one, with a disk of 16 MiB that nothing boots."""

from __future__ import annotations

import subprocess
from pathlib import Path

from oracles.manifests import artefact, write_manifest

from imagekit.disk import vhd
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Nic

MIB = 1 << 20
SIZE = 16 * MIB
ROOT_START = 3 * MIB
ROOT_BYTES = 12 * MIB
TABLE = "label: gpt\nstart=1MiB, size=2MiB\nstart=3MiB, size=12MiB\n"


def small_build(build: Path) -> Path:
    """Make ``build`` with a raw disk and a VHD of it; the last partition holds some data."""
    build.mkdir()
    disk = build / "small.raw"
    with disk.open("xb") as stream:
        stream.truncate(SIZE)
    subprocess.run(["/sbin/sfdisk", "-q", disk], input=TABLE, text=True, check=True)
    with disk.open("r+b") as stream:
        for offset in (4 * MIB, 7 * MIB + 512, 14 * MIB):
            stream.seek(offset)
            stream.write(bytes(range(1, 251)) * 300)
    vhd.write_vhd(disk, build / "small.vhd")
    yes = Verdict(True)
    facts = BuildFacts(
        name="small",
        uuid="11111111-2222-3333-4444-555555555555",
        memory_mib=256,
        vcpus=1,
        disks=(DiskFacts({"raw": "small.raw", "vhd": "small.vhd"}, SIZE),),
        pv=yes,
        pvh=yes,
        hvm=yes,
        pygrub=PygrubView(True, "grub.cfg"),
        modes=("pv",),
        nics=(Nic("00:16:3e:00:00:01", "xenbr0"),),
    )
    disks = [artefact("disk", f"small.{name}", format=name) for name in ("raw", "vhd")]
    write_manifest(build, facts, disks)
    return build
