"""What is known of a built image: everything a domain config follows from, as plain data.

The build's manifest keeps it under the key ``facts``. Paths are absolute, or relative to the
build's directory until :meth:`BuildFacts.located` makes them absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

from imagekit.domain import factsjson
from imagekit.domain.model import Action, Arch, Cpu, DiskFormat, Mode, Nic, RawValue, Vnc


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
    ``sizes`` that of each file, in bytes; ``sha256`` of each file in hex. ``vdev`` is its name in
    the guest (xvda).
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

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; :meth:`from_json` gives the facts back, but for a VNC password."""
        needed = self.graphics is not None and self.graphics.password is not None
        return factsjson.dump(replace(self, graphics_password=self.graphics_password or needed))

    @classmethod
    def from_json(cls, value: object, where: str = "facts") -> BuildFacts:
        """Read what :meth:`to_json` wrote; raises SpecError naming the key that is wrong."""
        return factsjson.load(value, cls, where)
