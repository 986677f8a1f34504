"""The firmware of the lab's HVM guests: Debian's SeaBIOS, compiled again so that disks use DMA.

Debian leaves ATA DMA out, so that each sector of an IDE disk comes through 256 steps of
``rep insw`` (SeaBIOS src/hw/ata.c), each of them an exit to the emulated hypervisor: GRUB takes
minutes to read a kernel and an initrd that way, and seconds with DMA.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ToolError, VerificationError
from imagekit.host.chroot import chroot
from imagekit.host.run import run as host_run
from imagekit.host.sandbox.profiles import COMPILING
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.mirrorfailures import explain
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.load import SpecFile

SOURCE = "seabios"
TARGET = "build/bios-256k.bin"
OPTIONS = ("QEMU=y", "ROM_SIZE=256", "ATA_DMA=y", "ATA_PIO32=y")
"""The first two are Debian's own (debian/rules, bios-256k-config)."""

SIZE = 256 << 10
# apt has checked the archive's signature; without a keyring of developers dpkg-source cannot.
COMPILE = """
cd /srv/firmware
dpkg-source --no-check --extract ./*.dsc source
dpkg-parsechangelog -l source/debian/changelog -S Version >version
cd source
make -f debian/rules {target} 'bios-256k-config={options}'
"""


@dataclass(frozen=True)
class Firmware:
    """The compiled firmware: its file, Debian's version of its source, and its SHA-256."""

    path: Path
    version: str
    sha256: str


class LabFirmware(Stage):
    """SeaBIOS from Debian's source package, compiled in the tree of :class:`BuildTree`."""

    name: ClassVar[str] = "lab-firmware"
    title: ClassVar[str] = "compiling the firmware of HVM guests"
    needs = ("rootfs.tar",)
    makes = ("bios.bin", "version")

    def __init__(self, file: SpecFile, mirrors: Mirrors) -> None:
        self._file = file
        self._mirrors = mirrors

    def key(self) -> Mapping[str, Any]:
        return {
            "source": [SOURCE, self._file.spec.os.suite],
            "mirrors": self._mirrors.guest_lines(),
            "keyring": digest_file(self._mirrors.keyring),
            "options": [*OPTIONS],
            "script": COMPILE,
        }

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar", epoch=None)
        home = tree / "srv/firmware"
        home.mkdir()
        for path in self._source(tree, run):
            shutil.copyfile(path, home / path.name)
        script = COMPILE.format(target=TARGET, options=" ".join(OPTIONS))
        log = run.logs / "compile.log"
        chroot(
            tree,
            ["sh", "-euc", script],
            profile=COMPILING,
            log=log,
            timeout=1800,
            what="compiling SeaBIOS",
        )
        made = (home / "source" / TARGET).read_bytes()
        if len(made) != SIZE:
            raise ToolError(f"SeaBIOS came out with {len(made)} bytes", hint=f"see {log}")
        (run.output / "bios.bin").write_bytes(made)
        shutil.copyfile(home / "version", run.output / "version")

    def _source(self, tree: Path, run: StageRun) -> list[Path]:
        """The source package's files, of which apt has checked signature and digests."""
        base = run.workspace.temporary("source")
        (base / "lists/partial").mkdir(parents=True)
        (base / "files").mkdir()
        keyring = base / f"archive{self._mirrors.keyring.suffix or '.gpg'}"
        keyring.write_bytes(self._mirrors.keyring.read_bytes())
        lines = self._mirrors.lines(keyring) or _own_sources(tree, keyring)
        sources = base / "sources.list"
        # A mirror's password may be among them.
        sources.touch(mode=0o600)
        sources.write_text("".join(f"deb-src{line.removeprefix('deb')}\n" for line in lines))
        (base / "status").touch()
        config = base / "apt.conf"
        config.write_text(
            f'Dir "{base}"; Dir::Etc "{base}"; Dir::Etc::Parts "-"; Dir::Etc::sourceparts "-";\n'
            f'Dir::Etc::sourcelist "sources.list"; Dir::Etc::preferencesparts "-";\n'
            f'Dir::Etc::trusted "-"; Dir::Etc::trustedparts "-"; Dir::State "{base}";\n'
            f'Dir::State::status "{base}/status"; Dir::Cache "{base}"; Dir::Log "{base}";\n'
            'APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";\n'
        )
        proxy = self._file.spec.os.proxy
        env = {"APT_CONFIG": str(config)}
        env |= dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}
        log = run.logs / "apt.log"
        fetch = ["source", "--only-source", "--download-only", SOURCE]
        for words in (["update", "-o", "APT::Update::Error-Mode=any"], fetch):
            argv = ["apt-get", "-q", "-y", *words]
            try:
                host_run(argv, env=env, cwd=base / "files", log=log, timeout=1800, what="apt-get")
            except ToolError as error:
                raise explain(error, self._file, log, self._mirrors) from None
        found = sorted((base / "files").iterdir())
        if sum(path.suffix == ".dsc" for path in found) != 1:
            raise VerificationError(f"the archive's source package {SOURCE} is not whole")
        return found


def _own_sources(tree: Path, keyring: Path) -> list[str]:
    """The sources that the tree's installer chose by itself, checked by ``keyring``."""
    lines = (tree / "etc/apt/sources.list").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("deb ")]
    plain = [[word for word in each[1:] if not word.startswith("[")] for each in words]
    return [f"deb [signed-by={keyring}] {' '.join(each)}" for each in plain]
