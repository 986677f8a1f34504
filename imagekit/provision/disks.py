"""The disk of a new guest: an overlay, a copy, a block device or volume, or a link of a VHD chain.

Overlays of one batch are alike, so that one is made per size, with its partition table grown, and
copied. Everything else gets the grown table written into it.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.disk import qemu_img, reading, vhd_chain
from imagekit.disk.device import exclusive, write_device
from imagekit.disk.extents import copy_sparse
from imagekit.disk.volume import make_volume
from imagekit.domain.model import DiskFormat
from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors
from imagekit.host.run import run
from imagekit.pipeline.workspace import Workspace
from imagekit.provision.golden import Base, Golden, base_directory, bases_locked, make_base
from imagekit.provision.growth import HEAD_BYTES, Grown, grown_table, last_partition
from imagekit.provision.journal import Journal
from imagekit.provision.request import Clone, GuestRequest


@dataclass(frozen=True)
class Made:
    """A guest's disk in ``format``; ``grown`` is its partition that grew, None if none did.

    ``sealed`` is what the disk becomes once its identity is written, None where it is whole.
    """

    disk: Path
    format: DiskFormat
    grown: int | None
    kernel: Path | None = None
    initrd: Path | None = None
    sealed: Path | None = None
    parent: Path | None = None


@dataclass
class Disks:
    """Makes disks of clones of ``golden``; several threads may ask at once."""

    golden: Golden
    parent: Path
    clone: Clone
    workspace: Workspace
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tables: dict[int, Grown] = field(default_factory=dict)
    _overlays: dict[int, Path] = field(default_factory=dict)
    _raw: Path | None = None

    def last_partition(self) -> int:
        """Number of the golden disk's last partition, 0 where that cannot be told."""
        with self._lock:
            return last_partition(self._head(), self.golden.size)

    def make(self, request: GuestRequest, size: int, place: Path, found: Journal) -> Made:
        """The disk of ``request``, ``size`` bytes, in the guest's directory ``place``.

        What lies outside of it is written into the journal first. Raises ImagekitError.
        """
        if request.device is not None or request.vg is not None:
            return self._block(request, size, place, found)
        if self.clone == "copy":
            return self._copy(request, size, place)
        return self._overlay(request, size, place, found)

    def _block(self, request: GuestRequest, size: int, place: Path, found: Journal) -> Made:
        source = self._raw_source()
        if request.device is not None:
            device = request.device
            found.add("device", path=str(device.resolve()))
        else:
            device = _volume(request, size, found)
        write_device(source, device)
        table = self._table(size)
        if table is not None:
            with exclusive(device) as fd, os_errors(device):
                _write(fd, table)
                os.fsync(fd)
        return self._own(Made(device, "raw", table.partition if table else None), place)

    def _copy(self, request: GuestRequest, size: int, place: Path) -> Made:
        disk = place / f"{request.name}.raw"
        disk.unlink(missing_ok=True)
        disk.touch(mode=0o600)
        _raw_copy(self.golden, disk)
        os.truncate(disk, size)
        table = self._table(size)
        if table is not None:
            fd = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
            try:
                _write(fd, table)
            finally:
                os.close(fd)
        disk.chmod(0o600)
        return self._own(Made(disk, "raw", table.partition if table else None), place)

    def _overlay(self, request: GuestRequest, size: int, place: Path, found: Journal) -> Made:
        chain = self.clone == "chain"
        directory = base_directory(self.golden, self.parent, chain=chain)
        with bases_locked():
            found.add("base", path=str(directory))
            base = make_base(self.golden, directory, chain=chain)
        template = self._template(base, size)
        disk = place / f"{request.name}.qcow2"
        disk.unlink(missing_ok=True)
        disk.touch(mode=0o600)
        shutil.copyfile(template, disk)
        table = self._table(size)
        return Made(
            disk,
            "qcow2",
            table.partition if table else None,
            base.kernel,
            base.initrd,
            place / f"{request.name}.vhd" if chain else None,
            base.disk if chain else None,
        )

    def _template(self, base: Base, size: int) -> Path:
        """An overlay of ``size`` bytes that nobody has written to but for its partition table."""
        with self._lock:
            if size in self._overlays:
                return self._overlays[size]
            scratch = self.workspace.temporary("overlay")
            overlay = scratch / "overlay.qcow2"
            backing = qemu_img.DRIVERS[base.format]
            # -u: the size is known, and the base is not opened here.
            run(
                [
                    *("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", backing),
                    *("-b", str(base.disk), str(overlay), str(size)),
                ],
                timeout=120,
                what="making the overlay",
            )
            table = self._table_locked(size)
            if table is not None:
                qemu_img.write(overlay, (base.disk, base.format), table.writes)
            self._overlays[size] = overlay
            return overlay

    def _own(self, made: Made, place: Path) -> Made:
        """``made`` with copies of kernel and initrd."""
        copies: list[Path | None] = []
        for source, name in ((self.golden.kernel, "vmlinuz"), (self.golden.initrd, "initrd.img")):
            if source is not None:
                shutil.copyfile(source, place / name)
            copies.append(place / name if source is not None else None)
        return Made(made.disk, made.format, made.grown, copies[0], copies[1])

    def _raw_source(self) -> Path:
        """The golden disk as a raw file, converted once where it is none."""
        with self._lock:
            if self._raw is None:
                self._raw = self.golden.disk
                if self.golden.format != "raw":
                    raw = self.workspace.temporary("golden") / "disk.raw"
                    _raw_copy(self.golden, raw)
                    self._raw = raw
            return self._raw

    def _table(self, size: int) -> Grown | None:
        with self._lock:
            return self._table_locked(size)

    def _table_locked(self, size: int) -> Grown | None:
        if size <= self.golden.size:
            return None
        if size not in self._tables:
            self._tables[size] = grown_table(self._head(), self.golden.size, size)
        return self._tables[size]

    def _head(self) -> bytes:
        """The first HEAD_BYTES of the golden disk."""
        if self.golden.format == "raw":
            with self.golden.disk.open("rb") as stream:
                return stream.read(HEAD_BYTES)
        return qemu_img.read(self.golden.disk, self.golden.format, 0, HEAD_BYTES)


def _volume(request: GuestRequest, size: int, found: Journal) -> Path:
    vg = str(request.vg)
    before = [str(e.get("tag")) for e in found.entries() if e.get("op") == "volume"]

    def note(name: str, tag: str) -> None:
        found.add("volume", vg=vg, name=name, tag=tag)

    return make_volume(vg, request.name, size, before[-1] if before else None, note)


def seal(made: Made) -> Path:
    """The guest's final disk: a chain's overlay becomes a differencing VHD here."""
    if made.sealed is None or made.parent is None:
        return made.disk
    vhd_chain.from_overlay(made.disk, made.parent, made.sealed)
    made.sealed.chmod(0o600)
    made.disk.unlink()
    return made.sealed


def _write(fd: int, table: Grown) -> None:
    for offset, data in table.writes:
        if os.pwrite(fd, data, offset) != len(data):
            raise SpecError("the partition table could not be written")


def _raw_copy(golden: Golden, target: Path) -> None:
    if golden.format == "raw":
        copy_sparse(golden.disk, target, overwrite=True)
    elif golden.format == "vhd":
        reading.unpack_vhd(golden.disk, target, overwrite=True)
    else:
        qemu_img.convert(golden.disk, target, source_format="qcow2", target_format="raw")
