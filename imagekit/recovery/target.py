"""Where a bundle's disk goes: a directory, and a block device or a new logical volume.

What an interrupted reinstall began is recognised by notes in the directory, so that it may go on,
there and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.device import check_device, write_device
from imagekit.disk.extents import BLOCK, opened, sha256_sparse
from imagekit.disk.volume import check_group, check_room, make_volume
from imagekit.errors import SpecError, VerificationError
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery.container import check_name
from imagekit.recovery.unpacked import Bundle
from imagekit.spec.manifest import MANIFEST

MARK = ".imagekit-reinstall.json"
"""In the directory while a device is being written."""
VOLUME = ".imagekit-volume.json"
"""In the directory until the report is written: group, name and tag of the new logical volume."""


@dataclass(frozen=True)
class Wish:
    """Where to: ``directory`` gets the build, ``device`` the disk; ``force`` names a device.

    ``vg`` is a volume group in which a logical volume is made for the disk instead.
    """

    directory: Path
    device: Path | None = None
    vg: str | None = None
    force: str | None = None
    overwrite: bool = False
    start: bool = False
    unpack: bool = False


def disk_size(bundle: Bundle) -> int:
    """Bytes of the disk as the guest sees it."""
    sizes = [disk.virtual_size_bytes for disk in bundle.manifest.disks]
    if not sizes or None in sizes:
        raise VerificationError("does not say how large the disk is", where=MANIFEST)
    return max(size for size in sizes if size is not None)


def raw_path(bundle: Bundle, wish: Wish) -> Path:
    """Where the raw disk is, or would be."""
    return wish.directory / f"{check_name(bundle.name)}.raw"


def write_disk(bundle: Bundle, wish: Wish, workspace: Workspace) -> None:
    """Write the device and read it back; raises VerificationError when it gives other bytes."""
    device = wish.device
    source = raw_path(bundle, wish)
    if device is None:
        return
    if not source.is_file():
        from imagekit.disk import qemu_img

        packed = wish.directory / next(iter(bundle.disks))
        source = workspace.temporary("device") / "disk.raw"
        if packed.suffix == ".vhd":
            from imagekit.disk.reading import unpack_vhd

            unpack_vhd(packed, source)
        else:
            qemu_img.convert(packed, source, source_format="qcow2", target_format="raw")
    mark = wish.directory / MARK
    mark.write_text(json.dumps(_mark(bundle, device, source)))
    write_device(source, device)
    if _device_digest(device, source.stat().st_size) != sha256_sparse(source):
        raise VerificationError("does not give back what was written to it", where=str(device))
    mark.unlink()


def _device_digest(device: Path, size: int) -> str:
    digest = hashlib.sha256()
    with opened(device) as fd:
        # Not from the page cache: what counts is what the device holds.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < size:
            data = os.pread(fd, min(BLOCK, size - done), done)
            if not data:
                break
            digest.update(data)
            done += len(data)
    return digest.hexdigest()


def _mark(bundle: Bundle, device: Path, begins: Path) -> dict[str, str]:
    """What tells a device that an interrupted reinstall began to write from any other."""
    begin = _device_digest(begins, 1 << 20)
    return {"device": str(device.resolve()), "bundle": bundle.identity, "begin": begin}


def check_target(bundle: Bundle, wish: Wish) -> None:
    """Refuse a device with data, but for what an interrupted reinstall of ours left on it."""
    if wish.device is None:
        return
    force = wish.force
    try:
        known = json.loads((wish.directory / MARK).read_text())
    except (OSError, ValueError):
        known = None
    marked = force is None and known is not None and wish.device.is_block_device()
    if marked and known == _mark(bundle, wish.device, wish.device):
        force = str(wish.device)
    check_device(wish.device, disk_size(bundle), force=force)


def _tag(wish: Wish) -> str | None:
    """The tag of the volume that an interrupted reinstall into this directory made."""
    try:
        known = json.loads((wish.directory / VOLUME).read_text())
    except (OSError, ValueError):
        return None
    same = isinstance(known, dict) and known.get("vg") == wish.vg
    return str(known.get("tag")) if same else None


def check_volume(bundle: Bundle, wish: Wish) -> None:
    """Refuse a volume group without room, and a volume that is there, unless it is our own."""
    if wish.vg is None:
        return
    if wish.device is not None:
        raise SpecError("name a device or a volume group, not both", where="--vg")
    try:
        check_group(wish.vg)
    except ValueError as error:
        raise SpecError(str(error), where="--vg") from None
    if _tag(wish) is None:
        check_room(wish.vg, bundle.name, disk_size(bundle))


def make_target(bundle: Bundle, wish: Wish, vg: str) -> Path:
    """The new logical volume, or that of an interrupted reinstall; its device.

    Raises as :func:`imagekit.disk.volume.make_volume`.
    """
    wish.directory.mkdir(parents=True, exist_ok=True)

    def note(name: str, tag: str) -> None:
        (wish.directory / VOLUME).write_text(json.dumps({"vg": vg, "name": name, "tag": tag}))

    return make_volume(vg, bundle.name, disk_size(bundle), _tag(wish), note)
