"""What is known of a built image: everything a domain config follows from, as plain data.

The build's manifest keeps it under the key ``facts``, and facts.json is the same. Paths are
absolute, or relative to the build's directory until :meth:`BuildFacts.located` makes them absolute.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from imagekit.domain import factsjson
from imagekit.domain.model import Action, Arch, Cpu, DiskFormat, Mode, Nic, RawValue, Vnc
from imagekit.errors import SpecError
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, file_in, inside, read_manifest


@dataclass(frozen=True)
class Verdict:
    """Whether the image can boot in one mode, and what was read to know it."""

    capable: bool
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class PygrubView:
    """Whether pygrub finds a kernel in the image; ``reason`` says what it finds or why not.

    Not ok for btrfs, XFS v5, ext4 with bigalloc, LVM or LUKS under /boot, or a bootloader config
    it cannot parse (``tools/pygrub``).
    """

    ok: bool
    reason: str


@dataclass(frozen=True)
class DiskFacts:
    """One disk of the image.

    ``paths`` has a path per format that was made; ``virtual_size`` is the size the guest sees and
    ``sizes`` that of each file, in bytes; ``sha256`` of each file in hex. Both are filled when a
    build is delivered (:meth:`BuildFacts.weighed`). ``vdev`` is its name in the guest (xvda).
    """

    paths: Mapping[DiskFormat, str]
    virtual_size: int
    vdev: str = "xvda"
    readonly: bool = False
    sizes: Mapping[DiskFormat, int] = field(default_factory=dict)
    sha256: Mapping[DiskFormat, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildFacts:
    """A built image, and the machine its spec asked for.

    ``pv``, ``pvh``, ``hvm`` are the verdicts of kernel and initrd together. ``modes`` are those the
    spec asked for, the preferred first. ``cmdline`` is the kernel's command line without consoles
    (``root=UUID=... ro``): each mode adds its own. ``grub_config`` is the path of grub.cfg in the
    guest if GRUB can read one there (pvgrub does); ``bootloader_bios`` and ``bootloader_uefi`` say
    whether firmware finds boot code in the MBR or an EFI system partition. ``raw`` holds extra
    settings per toolstack. ``graphics_password`` says that the screen needs a password, which is
    never kept with the facts and is asked for again. ``origins`` optionally says where the value of
    a field was written
    (``{"memory_mib": "web01.yaml:7 memory"}``), for ``--explain``.
    """

    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    disks: tuple[DiskFacts, ...]
    pv: Verdict
    pvh: Verdict
    hvm: Verdict
    pygrub: PygrubView
    arch: Arch = "x86_64"
    modes: tuple[Mode, ...] = ("pv", "pvh", "hvm")
    maxmem_mib: int | None = None
    maxvcpus: int | None = None
    nics: tuple[Nic, ...] = ()
    kernel: str | None = None
    initrd: str | None = None
    kernel_bytes: int | None = None
    initrd_bytes: int | None = None
    kernel_release: str | None = None
    cmdline: str = ""
    partition_table: Literal["gpt", "mbr", "none"] = "none"
    boot_filesystem: str = ""
    grub_config: str | None = None
    bootloader_bios: bool = False
    bootloader_uefi: bool = False
    os_distribution: str = ""
    os_version: str = ""
    graphics: Vnc | None = None
    graphics_password: bool = False
    cpu: Cpu = field(default_factory=Cpu)
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_crash: Action = "destroy"
    raw: Mapping[str, Mapping[str, RawValue]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def verdict(self, mode: Mode) -> Verdict:
        """The verdict on one mode."""
        return {"pv": self.pv, "pvh": self.pvh, "hvm": self.hvm}[mode]

    def located(self, directory: str) -> BuildFacts:
        """The same facts with relative paths made absolute under ``directory`` (absolute)."""

        def under(path: str) -> str:
            return str(PurePosixPath(directory) / path)

        return replace(
            self,
            kernel=under(self.kernel) if self.kernel else None,
            initrd=under(self.initrd) if self.initrd else None,
            disks=tuple(
                replace(disk, paths={f: under(p) for f, p in disk.paths.items()})
                for disk in self.disks
            ),
        )

    def weighed(self, artefacts: Iterable[Artefact]) -> BuildFacts:
        """The same facts with size and SHA-256 of every file of a disk that is in ``artefacts``."""
        known = {artefact.path: artefact for artefact in artefacts}

        def weigh(disk: DiskFacts) -> DiskFacts:
            files = {f: known[path] for f, path in disk.paths.items() if path in known}
            return replace(
                disk,
                sizes={f: file.size_bytes for f, file in files.items()},
                sha256={f: file.sha256 for f, file in files.items()},
            )

        return replace(self, disks=tuple(weigh(disk) for disk in self.disks))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; :meth:`from_json` gives the facts back, but for a VNC password."""
        needed = self.graphics is not None and self.graphics.password is not None
        return factsjson.dump(replace(self, graphics_password=self.graphics_password or needed))

    @classmethod
    def from_json(cls, value: object, where: str = "facts") -> BuildFacts:
        """Read what :meth:`to_json` wrote; raises SpecError naming the key that is wrong."""
        return factsjson.load(value, cls, where)


def facts_text(facts: BuildFacts) -> str:
    """``facts`` as facts.json has them."""
    return json.dumps(facts.to_json(), indent=1)


def read_facts(path: Path) -> BuildFacts:
    """The facts in ``path``, a facts.json of our own; raises SpecError."""
    return BuildFacts.from_json(json.loads(path.read_text()), str(path))


def facts_of(manifest: Manifest, where: str) -> BuildFacts:
    """The facts in ``manifest``, their paths relative to the build; ``where`` is its file.

    Raises SpecError when there are none, when they are wrong, or name a file outside the build.
    """
    if manifest.facts is None:
        raise SpecError(
            "the manifest has no facts about an image", where=where, hint="build it again"
        )
    facts = BuildFacts.from_json(manifest.facts.root, f"{where}: facts")
    for path in _paths(facts):
        try:
            inside(path)
        except ValueError as error:
            raise SpecError(str(error), where=f"{where}: facts") from None
    return facts


def facts_in(build: Path, manifest: Manifest | None = None) -> BuildFacts:
    """The facts of the build in the directory ``build``, with absolute paths; raises SpecError.

    ``manifest`` is the one of that directory, if it is read already. A file that a link puts
    outside the directory is refused.
    """
    facts = facts_of(manifest or read_manifest(build), str(build / MANIFEST))
    for path in _paths(facts):
        file_in(build, path)
    return facts.located(str(build.absolute()))


def _paths(facts: BuildFacts) -> Iterator[str]:
    yield from (path for path in (facts.kernel, facts.initrd) if path)
    for disk in facts.disks:
        yield from disk.paths.values()
