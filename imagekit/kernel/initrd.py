"""An initrd: its segments, its files, and which drivers are in it.

An initrd is any number of cpio archives, plain or compressed, with NULs between them; Linux
``init/initramfs.c`` unpacks them one over the other. Nothing is extracted here: archives are
walked piece by piece, within limits of segments, bytes and names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imagekit.errors import ImageError, ImagekitError
from imagekit.kernel.codecs import Stream, detect
from imagekit.kernel.cpio import MAGICS, CpioEntry, CpioError, CpioReader
from imagekit.kernel.image import read_file
from imagekit.kernel.kconfig import KernelConfig

DriverState = Literal["module", "builtin", "missing", "unknown"]

MAX_FILE = 1 << 30
MAX_UNPACKED = 1 << 30
"""Most bytes that all segments may unpack to; the limit of Xen (XC_DOM_DECOMPRESS_MAX)."""
MAX_SEGMENTS = 128
MAX_ENTRIES = 300_000
_MAX_NAMES = 64 << 20
_MAX_KEPT = 4 << 20
_PIECE = 1 << 20

_MODULE = re.compile(r"(?:^|/)([^/]{1,200})\.k?o(?:\.(?:gz|xz|zst|bz2))?$")
_MODULE_TREE = re.compile(r"(?:usr/)?lib/modules/([^/]{1,128})/")
_BUILTIN_LIST = re.compile(r"^(?:usr/)?lib/modules/[^/]+/modules\.builtin$")

DRIVER_SYMBOLS: Mapping[str, str] = {
    "xen_blkfront": "XEN_BLKDEV_FRONTEND",
    "xen_netfront": "XEN_NETDEV_FRONTEND",
    "virtio_blk": "VIRTIO_BLK",
    "virtio_net": "VIRTIO_NET",
    "virtio_pci": "VIRTIO_PCI",
    "dm_mod": "BLK_DEV_DM",
    "ext4": "EXT4_FS",
    "xfs": "XFS_FS",
    "btrfs": "BTRFS_FS",
    "ata_piix": "ATA_PIIX",
    "ahci": "SATA_AHCI",
    "nvme": "BLK_DEV_NVME",
    "sd_mod": "BLK_DEV_SD",
    "e1000": "E1000",
    "8139cp": "8139CP",
}
"""Kconfig symbol (without CONFIG_) of the drivers that matter to a guest."""

OLD_NAMES: Mapping[str, tuple[str, ...]] = {
    "xen_blkfront": ("xenblk", "xen_vbd"),
    "xen_netfront": ("xennet", "xen_vnif"),
}
"""Names of the same drivers in XenLinux kernels (PV, and PV on HVM)."""

_INIT_HINTS: tuple[tuple[str, str], ...] = (
    ("lib/debian-installer", "debian-installer"),
    ("usr/lib/dracut", "dracut"),
    ("lib/dracut", "dracut"),
    ("scripts/init-premount", "initramfs-tools"),
    ("conf/initramfs.conf", "initramfs-tools"),
    ("scripts/functions", "initramfs-tools"),
    ("buildconfig", "mkinitcpio"),
    ("etc/mkinitfs", "mkinitfs"),
    ("usr/lib/systemd/systemd", "systemd"),
    ("linuxrc", "linuxrc"),
)


@dataclass(frozen=True)
class Segment:
    """One segment of the file: ``codec`` is ``cpio`` (plain), a codec's name, or ``unknown``.

    ``offset`` and ``size`` are bytes in the file, ``entries`` the files in it.
    """

    codec: str
    offset: int
    size: int
    entries: int


@dataclass(frozen=True)
class Driver:
    """Where a driver is, and what was read to know it."""

    state: DriverState
    evidence: str


@dataclass(frozen=True)
class Initrd:
    """One initrd.

    ``files`` are all members, in order; ``modules`` the names of its kernel modules with ``_`` for
    ``-``, ``releases`` the kernels they are for (``lib/modules/RELEASE``);
    ``builtin`` those that its own modules.builtin lists, None without such a file.
    ``problems`` says what could not be read; then an absent driver is not proof of absence.
    """

    name: str
    segments: tuple[Segment, ...]
    files: tuple[CpioEntry, ...] = field(repr=False)
    modules: frozenset[str] = field(repr=False)
    builtin: frozenset[str] | None = field(repr=False)
    init_system: str | None
    problems: tuple[str, ...]
    releases: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether all of it could be read."""
        return not self.problems

    def has_driver(
        self,
        name: str,
        *,
        kernel_config: KernelConfig | None = None,
        modules_builtin: Iterable[str] | None = None,
    ) -> Driver:
        """Whether the driver ``name`` is at hand before the root file system is mounted.

        ``modules_builtin`` are lines of the root file system's modules.builtin or bare names.
        """
        wanted = normalise(name)
        for alias in (wanted, *OLD_NAMES.get(wanted, ())):
            if alias in self.modules:
                return Driver("module", f"{self.name} holds the module {alias}")
        if self.builtin is not None and wanted in self.builtin:
            return Driver("builtin", f"modules.builtin in {self.name} lists {wanted}")
        given = None if modules_builtin is None else frozenset(map(module_name, modules_builtin))
        if given is not None and wanted in given:
            return Driver("builtin", f"the kernel's modules.builtin lists {wanted}")
        symbol = DRIVER_SYMBOLS.get(wanted)
        value = kernel_config.value(symbol) if kernel_config and symbol else None
        if kernel_config and value == "y":
            return Driver("builtin", f"{kernel_config.name} has CONFIG_{symbol}=y")
        if not self.complete:
            return Driver("unknown", f"{self.name} could not be read whole: {self.problems[0]}")
        if value is None and self.builtin is None and given is None:
            return Driver("unknown", f"{self.name} has no module {wanted}; it may be built in")
        return Driver("missing", f"{self.name} has no module {wanted} and it is not built in")


def normalise(name: str) -> str:
    """A module's name as the kernel writes it: ``_`` for ``-``."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Normalised name of a module from its path (``kernel/drivers/block/xen-blkfront.ko.xz``)."""
    found = _MODULE.search(path.strip())
    return normalise(found.group(1) if found else path.strip())


def read_initrd(path: Path) -> Initrd:
    """Read the file ``path`` (at most 1 GiB); raises SpecError, ImageError."""
    return parse_initrd(read_file(path, MAX_FILE, "initrd"), name=path.name)


def parse_initrd(data: bytes, *, name: str, limit: int = MAX_UNPACKED) -> Initrd:
    """Read the initrd ``data``, unpacking at most ``limit`` bytes.

    Bytes after the last segment that are no segment are tolerated and reported in ``segments``.
    Raises ImageError when there is no archive at all in it, or it is beyond the limits.
    """
    reading = _Reading(name, memoryview(data), limit)
    reading.all()
    if not reading.files and (not reading.segments or reading.segments[0].codec == "unknown"):
        raise ImageError(
            "this is not an initrd: it begins with neither a cpio archive nor a known compression",
            where=name,
            hint="give the initrd or initramfs file that belongs to the kernel",
        )
    names = {entry.name for entry in reading.files}
    modules = (_MODULE.search(entry) for entry in names)
    return Initrd(
        name,
        tuple(reading.segments),
        tuple(reading.files),
        frozenset(normalise(found.group(1)) for found in modules if found),
        reading.builtin,
        next((system for path, system in _INIT_HINTS if path in names), None),
        tuple(reading.problems),
        frozenset(found.group(1) for found in map(_MODULE_TREE.match, names) if found),
    )


class _Reading:
    """The state of one pass over an initrd."""

    def __init__(self, name: str, data: memoryview, limit: int) -> None:
        self._name = name
        self._data = data
        self._left = limit
        self._name_bytes = 0
        self._kept_bytes = 0
        self.segments: list[Segment] = []
        self.files: list[CpioEntry] = []
        self.builtin: frozenset[str] | None = None
        self.problems: list[str] = []

    def all(self) -> None:
        position = 0
        while (position := self._after_zeros(position)) < len(self._data):
            if len(self.segments) >= MAX_SEGMENTS:
                raise self._error(f"it has more than {MAX_SEGMENTS} segments")
            before, codec = len(self.files), detect(self._data, position)
            if bytes(self._data[position : position + 6]) in MAGICS:
                kind, end = "cpio", self._plain(position)
            elif codec is not None:
                stream = Stream(
                    self._data, codec, where=self._name, start=position, limit=self._left
                )
                kind, end = codec, self._compressed(stream)
            else:
                kind, end = "unknown", None
                self._garbage()
            size = (len(self._data) if end is None else end) - position
            self.segments.append(Segment(kind, position, size, len(self.files) - before))
            if end is None:
                return
            position = end

    def _garbage(self) -> None:
        """Bytes after a whole archive are ignored by the kernel; before one they are an error."""
        if not self.segments:
            self.problems.append("its first bytes are neither cpio nor a known compression")

    def _plain(self, position: int) -> int | None:
        """Walk a plain cpio; the offset after its trailer, None when it is damaged."""
        reader = self._reader()
        try:
            while position < len(self._data):
                piece = self._data[position : position + _PIECE]
                left = reader.feed(piece, stop_at_end=True)
                position += len(piece) - left
                if reader.done:
                    return position
            reader.finish()
        except CpioError as error:
            self.problems.append(str(error))
        return None

    def _compressed(self, stream: Stream) -> int | None:
        """Walk the archives in a compressed segment; the offset after it, None when damaged."""
        reader = self._reader()
        archive_ok = True
        try:
            for piece in stream:
                self._left -= len(piece)
                if archive_ok:
                    archive_ok = self._feed(reader, piece)
            if archive_ok:
                reader.finish()
        except CpioError as error:
            self.problems.append(str(error))
        except ImagekitError as error:
            self.problems.append(error.what)
            return None
        return stream.end

    def _feed(self, reader: CpioReader, piece: bytes) -> bool:
        try:
            reader.feed(piece)
        except CpioError as error:
            self.problems.append(str(error))
            return False
        return True

    def _reader(self) -> CpioReader:
        return CpioReader(self._entry, self._keep, self._content)

    def _entry(self, entry: CpioEntry) -> None:
        self._name_bytes += len(entry.name)
        if len(self.files) >= MAX_ENTRIES or self._name_bytes > _MAX_NAMES:
            raise CpioError(f"it holds more than {MAX_ENTRIES} files or 64 MiB of names")
        self.files.append(entry)

    def _keep(self, entry: CpioEntry) -> bool:
        if entry.size > _MAX_KEPT or _BUILTIN_LIST.match(entry.name) is None:
            return False
        self._kept_bytes += entry.size
        return self._kept_bytes <= 4 * _MAX_KEPT

    def _content(self, _entry: CpioEntry, data: bytes) -> None:
        lines = data.decode("utf-8", "replace").splitlines()
        names = frozenset(module_name(line) for line in lines if line.strip())
        self.builtin = names | (self.builtin or frozenset())

    def _after_zeros(self, position: int) -> int:
        block = bytes(4096)
        while self._data[position : position + 4096] == block:
            position += 4096
        while position < len(self._data) and self._data[position] == 0:
            position += 1
        return position

    def _error(self, what: str) -> ImageError:
        return ImageError(what, where=self._name, hint="the file is hostile or no initrd")
