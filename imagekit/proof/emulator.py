"""The QEMU that the lab runs in: Debian 12's, whatever the host has.

Newer QEMUs start no PVH guest (they take a read of CR2 for one of CR0; docs/prove.md), and what
emulation does to a guest's registers was measured for 7.2 alone. So the program, its libraries and
its firmware are taken from Debian packages into one archive, which runs beside whatever libraries
the host has. One fault of it is corrected on the way (imagekit.proof.svm_fix).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from imagekit.host.chroot import chroot
from imagekit.host.run import run as host_run
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.stage import Stage, StageRun

ARCHIVE = "qemu.tar"
VERSION = "qemu.version"
SHIPS = ("svm_fix.py",)
FIX = Path(__file__).parent / "svm_fix.py"
LINKER = "ld-linux-x86-64.so.2"
# ldd prints "NAME => PATH (ADDRESS)", and for the dynamic linker "PATH (ADDRESS)".
COLLECT = """
umask 022
program=/usr/bin/qemu-system-x86_64
module=/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so
cd /srv
mkdir emulator emulator/lib emulator/modules emulator/firmware
cp -L $program emulator/qemu
cp -L $module emulator/modules
ldd $program $module | sed -nE 's|^.*[[:space:]](/[^ ]+) [(]0x.*|\\1|p' | sort -u |
    xargs cp -L -t emulator/lib
cp -L /usr/share/qemu/*.bin -t emulator/firmware
cp -L /usr/share/seabios/bios.bin /usr/share/seabios/bios-256k.bin -t emulator/firmware
dpkg-query -W -f '${Version}' qemu-system-x86 >qemu.version
status=0
python3 -I svm_fix.py emulator/qemu || status=$?
case $status in
0) echo -n ' (VMRUN injects no interrupt twice)' >>qemu.version ;;
3) touch not-fixed ;;
*) exit $status ;;
esac
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -f qemu.tar -C emulator .
"""


@dataclass(frozen=True)
class EmulatorArchive:
    """What :class:`LabEmulator` made: its file, Debian's version of QEMU, and its SHA-256."""

    path: Path
    version: str
    sha256: str

    def unpack(self, root: Path, *, known_as: Path | None = None) -> Emulator:
        """Unpack it into the new directory ``root``; raises ToolError.

        ``known_as`` is the name of ``root`` where QEMU will be started.
        """
        root.mkdir()
        host_run(["tar", "--extract", "--no-same-owner", "-f", str(self.path), "-C", str(root)])
        return Emulator(known_as or root)


@dataclass(frozen=True)
class Emulator:
    """A QEMU that is ready to start."""

    root: Path

    @property
    def program(self) -> Path:
        """The file of QEMU itself."""
        return self.root / "qemu"

    def argv(self) -> list[str]:
        """How QEMU starts: by its own dynamic linker, with its own libraries and firmware."""
        library = self.root / "lib"
        start = [str(library / LINKER), "--library-path", str(library), str(self.program)]
        return [*start, "-L", str(self.root / "firmware")]

    def environment(self) -> dict[str, str]:
        """What QEMU needs to find its accelerator (QEMU util/module.c)."""
        return {"QEMU_MODULE_DIR": str(self.root / "modules")}


class LabEmulator(Stage):
    """QEMU with its libraries, its accelerator and its firmware, out of the build tree."""

    name: ClassVar[str] = "lab-emulator"
    title: ClassVar[str] = "collecting the QEMU that the lab runs in"
    needs = ("rootfs.tar",)
    makes = (ARCHIVE, VERSION)

    def key(self) -> Mapping[str, Any]:
        return {"script": COLLECT}

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar", epoch=None)
        shutil.copyfile(FIX, tree / "srv" / FIX.name)
        log = run.logs / "collect.log"
        chroot(tree, ["sh", "-euc", COLLECT], log=log, what="collecting QEMU")
        if (tree / "srv/not-fixed").exists():
            run.note(
                f"this QEMU may inject an interrupt twice, and a sound guest then fails; why: {FIX}"
            )
        for name in self.makes:
            shutil.copyfile(tree / "srv" / name, run.output / name)
