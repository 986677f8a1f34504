"""What a domU is made of: disks, NICs, boot paths, a screen, and the fields that hold them.

Nothing here is checked: :class:`imagekit.domain.model.Domain` is these fields and the rules.
Memory is in MiB, sizes in bytes, rates in bytes per second, unless a name says otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from imagekit.errors import SpecError

Mode = Literal["pv", "pvh", "hvm"]
Arch = Literal["x86_64", "i386"]
DiskFormat = Literal["raw", "qcow2", "vhd"]
Backend = Literal["phy", "qdisk", "tap"]
NicType = Literal["vif", "ioemu"]
FirmwareKind = Literal["bios", "uefi"]
Action = Literal[
    "destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"
]
RawItem = str | int
RawValue = RawItem | tuple[RawItem | tuple[RawItem, ...], ...]
"""A raw setting: xl's vnuma is a list of lists, and nothing goes deeper."""

MODES: tuple[Mode, ...] = ("pv", "pvh", "hvm")
DEFAULT_RATE_INTERVAL_US = 50_000
"""xl's interval when a rate names none (``tools/libs/util/libxlu_vif.c``)."""


@dataclass(frozen=True)
class Pygrub:
    """dom0 runs pygrub on ``disks[0]``; PV and PVH. ``args`` are further argv items for it."""

    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pvgrub:
    """GRUB built for Xen is the guest's kernel and reads grub.cfg inside the guest; PV and PVH.

    ``image_path`` is the image in dom0, for Debian one of ``/usr/lib/grub-xen/*.bin``
    (package grub-xen-host).
    """

    image_path: str


@dataclass(frozen=True)
class DirectKernel:
    """dom0 loads ``kernel`` and ``initrd`` (paths in dom0) with ``cmdline``, at most 1023 bytes."""

    kernel: str
    initrd: str | None = None
    cmdline: str = ""


@dataclass(frozen=True)
class Firmware:
    """HVM: SeaBIOS or OVMF. ``boot_order`` is letters: c disk, d CD-ROM, n network, a floppy."""

    kind: FirmwareKind = "bios"
    boot_order: str = "c"


@dataclass(frozen=True)
class Netboot:
    """dom0 runs ``program`` (a name or absolute path) that fetches kernel and initrd; PV and PVH.

    It is called by the bootloader protocol of libxl with ``args`` before the disk. libvirt hands
    over a single argument without blanks, so that ``--profile=NAME`` works everywhere.
    """

    program: str
    args: tuple[str, ...] = ()


Boot = Pygrub | Pvgrub | DirectKernel | Firmware | Netboot


@dataclass(frozen=True)
class Disk:
    """One virtual disk. ``target`` is an absolute path in dom0; None is an empty CD-ROM drive.

    ``backend`` is a hint: None leaves the choice to the toolstack (libxl: phy, qdisk, tap, in that
    order). A CD-ROM is always read-only.
    """

    target: str | None
    format: DiskFormat = "raw"
    vdev: str = "xvda"
    readonly: bool = False
    cdrom: bool = False
    backend: Backend | None = None

    @property
    def block(self) -> bool:
        """Whether the target is a block device of dom0, told by its path."""
        return self.target is not None and self.target.startswith("/dev/")


_RATE = re.compile(r"([0-9]{1,12})([GMK]?)([bB])/s(?:@([0-9]{1,10})(us|ms|s))?")
_RATE_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
_INTERVAL_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}


@dataclass(frozen=True)
class Rate:
    """A limit on what a guest sends: ``bytes_per_second``, granted every ``interval_us``."""

    bytes_per_second: int
    interval_us: int = DEFAULT_RATE_INTERVAL_US

    @classmethod
    def parse(cls, text: str, where: str = "rate") -> Rate:
        """Read xl's notation: ``100Mb/s``, ``1GB/s@20ms``; decimal units, b bits, B bytes.

        An interval needs its unit, because xl takes a bare number as seconds where its manual
        says microseconds. Raises SpecError. Source: xl-network-configuration(5), libxlu_vif.c.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise SpecError(
                f"{text!r} is not a rate",
                where=where,
                hint="write it as 100Mb/s (bits), 12MB/s (bytes) or 100Mb/s@20ms",
            )
        number, unit, letter, interval, interval_unit = match.groups()
        rate = int(number) * _RATE_UNITS[unit] // (8 if letter == "b" else 1)
        if interval is None:
            return cls(rate)
        return cls(rate, int(interval) * _INTERVAL_UNITS[interval_unit])

    def __str__(self) -> str:
        """xl's notation, in the largest unit that keeps the value exact."""
        value, letter = self.bytes_per_second, "B"
        if value * 8 % 1_000_000 == 0:
            value, letter = value * 8, "b"
        for prefix in ("G", "M", "K"):
            if value % _RATE_UNITS[prefix] == 0:
                value, letter = value // _RATE_UNITS[prefix], prefix + letter
                break
        text = f"{value}{letter}/s"
        if self.interval_us == DEFAULT_RATE_INTERVAL_US:
            return text
        if self.interval_us % 1000 == 0:
            return f"{text}@{self.interval_us // 1000}ms"
        return f"{text}@{self.interval_us}us"


@dataclass(frozen=True)
class Nic:
    """One network interface. ``mac`` is lower case with colons.

    ``script`` is a hotplug script of dom0 (``/etc/xen/scripts``; None is vif-bridge): with
    vif-bridge and vif-openvswitch ``bridge`` is needed (openvswitch: ``NAME[.TAG][:TRUNK...]``),
    with vif-route ``ips`` is, and ``gatewaydev`` names dom0's interface. ``type`` and ``model``
    are for HVM only: ioemu (default) is an emulated card plus its PV twin, vif the PV one alone.
    ``name`` is the interface's name in dom0.
    """

    mac: str
    bridge: str | None = None
    ips: tuple[str, ...] = ()
    model: str | None = None
    script: str | None = None
    rate: Rate | None = None
    type: NicType | None = None
    gatewaydev: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Vnc:
    """A screen over VNC (HVM: the emulated card, PV and PVH: the PV framebuffer).

    ``display`` None takes the first free one. ``password`` makes every file that holds it secret
    (mode 0600); VNC uses at most 8 characters of it (RFC 6143, 7.2.2).
    """

    listen: str = "127.0.0.1"
    display: int | None = None
    password: str | None = field(default=None, repr=False)
    keymap: str | None = None


@dataclass(frozen=True)
class Cpu:
    """Scheduling. ``weight`` 1..65535 (256 is usual), ``cap`` in percent of one CPU, ``pins`` the
    physical CPUs the vcpus may run on (hard affinity; empty is all)."""

    weight: int | None = None
    cap: int | None = None
    pins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fields:
    """All fields of a domU, not yet checked.

    ``maxmem_mib`` and ``maxvcpus`` None equal ``memory_mib`` and ``vcpus``. ``serial`` is an
    emulated serial port for HVM. ``raw`` are settings for one toolstack's own keys, as parsed
    values; an emitter that cannot carry them refuses.
    """

    name: str
    uuid: str
    mode: Mode
    memory_mib: int
    vcpus: int
    boot: Boot
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    maxmem_mib: int | None = None
    maxvcpus: int | None = None
    arch: Arch = "x86_64"
    graphics: Vnc | None = None
    serial: Literal["pty"] | None = None
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_crash: Action = "destroy"
    cpu: Cpu = Cpu()
    raw: tuple[tuple[str, RawValue], ...] = ()

    @property
    def secret(self) -> bool:
        """Whether a config of this domain holds a secret and its files must be mode 0600."""
        return self.graphics is not None and self.graphics.password is not None


def pin_ranges(pins: tuple[int, ...]) -> str:
    """CPU numbers as xl, xm and libvirt all write them: ``(0, 1, 2, 5)`` becomes ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(set(pins)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


_PIN = re.compile(r"(\^?)([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_pins(text: str, where: str = "cpus") -> tuple[int, ...]:
    """Read ``0-3,5,^1`` (or ``all``: no limit, an empty tuple) as CPU numbers; SpecError."""
    if text == "all":
        return ()
    chosen: set[int] = set()
    for item in text.split(","):
        match = _PIN.fullmatch(item.strip())
        if match is None:
            raise SpecError(
                f"{item!r} is not a CPU or a range of them", where=where, hint="as in 0-3,5,^1"
            )
        first, last = int(match[2]), int(match[3] or match[2])
        numbers = range(first, last + 1)
        chosen = chosen.difference(numbers) if match[1] else chosen.union(numbers)
    if not chosen:
        raise SpecError(f"{text!r} names no CPU", where=where)
    return tuple(sorted(chosen))
