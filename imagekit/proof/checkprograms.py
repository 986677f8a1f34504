"""The programs that the guests of the lab's self-check run, and the disk that one of them reads."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ToolError
from imagekit.host.chroot import chroot
from imagekit.host.sandbox.profiles import COMPILING
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.stage import Stage, StageRun, digest_file

SHIPS = ("selfcheck/registers.c", "selfcheck/disk.s")
SOURCES = Path(__file__).parent / "selfcheck"
REGISTERS = "registers.c"
DISK = "disk.s"
SECTOR = 512
PATTERN_BYTES = 64 * 64 * SECTOR
"""What the boot sector reads: BLOCKS blocks of 64 sectors (disk.s)."""

COMPILE = """
cd /srv/selfcheck
gcc -Wall -Wextra -Werror -Os -static -nostdlib -ffreestanding -fno-stack-protector \\
    -mgeneral-regs-only -Wl,--build-id=none -o registers registers.c
as --32 -o disk.o disk.s
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o boot disk.o
"""


@dataclass(frozen=True)
class Programs:
    """``registers`` is process 1 of a guest; ``disk`` starts with a boot sector.

    Their bytes tell one self-check from another: ``digests`` are their SHA-256.
    """

    registers: Path
    disk: Path

    def digests(self) -> list[str]:
        """SHA-256 of both files."""
        return [digest_file(self.registers), digest_file(self.disk)]


class CheckPrograms(Stage):
    """Compiles the programs in the build tree."""

    name: ClassVar[str] = "lab-check-programs"
    title: ClassVar[str] = "compiling what checks the lab"
    needs = ("rootfs.tar",)
    makes = ("registers", "disk")

    def key(self) -> Mapping[str, Any]:
        return {"script": COMPILE, "pattern": PATTERN_BYTES}

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar", epoch=None)
        home = tree / "srv/selfcheck"
        home.mkdir()
        for name in (REGISTERS, DISK):
            shutil.copyfile(SOURCES / name, home / name)
        log = run.logs / "compile.log"
        chroot(
            tree,
            ["sh", "-euc", COMPILE],
            profile=COMPILING,
            log=log,
            timeout=300,
            what="compiling the self-check",
        )
        boot = (home / "boot").read_bytes()
        if len(boot) != SECTOR:
            raise ToolError(f"the self-check's boot sector has {len(boot)} bytes")
        shutil.copyfile(home / "registers", run.output / "registers")
        (run.output / "disk").write_bytes(boot + pattern())


def pattern() -> bytes:
    """What stands behind the boot sector: every sector differs from every other."""
    return hashlib.shake_128(b"imagekit self-check").digest(PATTERN_BYTES)


def pattern_sum() -> int:
    """What the boot sector must find: the sum so far, rotated left by one, plus the next word."""
    total = 0
    for (word,) in struct.iter_unpack("<I", pattern()):
        total = ((total << 1 | total >> 31) + word) & 0xFFFFFFFF
    return total
