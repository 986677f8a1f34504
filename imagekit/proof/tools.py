"""What the lab needs beside its dom0, made in one tree of Debian packages and stored.

The firmware of HVM guests, the QEMU that runs the lab, the library by which the host unpacks
kernels for dom0's xl, and the programs that check the lab.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from imagekit.disk.extents import sha256_sparse
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import mirrors_for
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import execute
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Target, digest_file
from imagekit.pipeline.store import Store
from imagekit.proof.checkprograms import CheckPrograms, Programs
from imagekit.proof.emulator import ARCHIVE, VERSION, EmulatorArchive, LabEmulator
from imagekit.proof.firmware import Firmware, LabFirmware
from imagekit.proof.unpack import LIBRARY, LabUnpack
from imagekit.spec.load import load_spec

SHIPS = ("build-tree.yaml",)
SPEC = Path(__file__).parent / "build-tree.yaml"


@dataclass(frozen=True)
class LabTools:
    """HVM guests' firmware, the lab's QEMU, xl's library, and the self-check's programs.

    All of them lie in ``store``, which keeps them from being pruned as long as it lives.
    """

    firmware: Firmware
    emulator: EmulatorArchive
    unpack: Path
    programs: Programs
    store: Store = field(repr=False, compare=False)


class BuildTree(Rootfs):
    """A compiler and what it needs, and a QEMU to take out."""

    name: ClassVar[str] = "build-tree"
    title: ClassVar[str] = "installing a compiler for the lab's own programs"


def tools_plan() -> Plan:
    """The stages that make the tools."""
    file = load_spec(SPEC)
    mirrors = mirrors_for(file)
    packages = sorted(file.spec.debootstrap.packages)
    makers = [LabFirmware(file, mirrors), LabEmulator(), LabUnpack(), CheckPrograms()]
    targets = [Target(name, name, "lab") for stage in makers for name in stage.makes]
    context = BuildContext(file, Path())
    tree = BuildTree(context, mirrors, packages)
    return make_plan([tree, *makers], targets, context.environment)


def build_tools(events: Events, *, fresh: bool = False) -> LabTools:
    """The tools from the store, or made now."""
    store = Store()
    results = execute(
        tools_plan(), store, events, guest="imagekit-lab", fresh=fresh, digest=sha256_sparse
    )
    found = {name: path for r in results.values() for name, path in r.entry.files.items()}
    bios = found["bios.bin"]
    firmware = Firmware(bios, found["version"].read_text().strip(), digest_file(bios))
    archive = found[ARCHIVE]
    emulator = EmulatorArchive(archive, found[VERSION].read_text(), digest_file(archive))
    programs = Programs(found["registers"], found["disk"])
    return LabTools(firmware, emulator, found[LIBRARY], programs, store)
