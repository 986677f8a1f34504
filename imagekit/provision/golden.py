"""The golden disk of a build, and the shared copies that overlays stand on.

An overlay breaks when its backing file changes, and a build directory may be built into again. So
overlays stand on a copy of their own beside the guests, ``DIR/.golden/DIGEST/``, shared by all
guests of the same golden image and removed with the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.disk.reading import probe, unpack_vhd
from imagekit.domain.facts import BuildFacts, facts_in
from imagekit.domain.model import DiskFormat
from imagekit.errors import ImagekitError, SpecError
from imagekit.host.strangers import make_folder
from imagekit.pipeline.build_directory import STATE, require_own_build
from imagekit.pipeline.record import marks
from imagekit.provision.journal import (
    PREFERRED,
    Journal,
    disk_of_base,
    guests_directory,
    journal,
    state_root,
)
from imagekit.spec.manifest import read_manifest


@dataclass(frozen=True)
class Golden:
    """A build as the source of guests: ``disk`` in ``format``, ``size`` what guests see (bytes).

    ``packages`` are the names of those in the image, None where that is not known.
    """

    directory: Path
    facts: BuildFacts
    disk: Path
    format: DiskFormat
    size: int
    sha256: str
    kernel: Path | None
    initrd: Path | None
    packages: frozenset[str] | None = None


def open_golden(build: Path, formats: tuple[DiskFormat, ...] = PREFERRED) -> Golden:
    """The golden image in the build directory ``build``, its disk in the first of ``formats`` that
    it has; raises SpecError, ImageError, and HostError for a directory that others may write to."""
    require_own_build(build)
    manifest = read_manifest(build)
    root = build.absolute()
    facts = facts_in(root, manifest)
    disks = {disk.format: disk for disk in manifest.disks}
    if len(facts.disks) != 1:
        raise SpecError(f"the build has {len(facts.disks)} disks, not one", where=str(build))
    chosen = next((f for f in formats if f in facts.disks[0].paths and f in disks), None)
    if chosen is None:
        raise SpecError(
            f"the build holds no disk as {' or '.join(formats)}",
            where=str(build),
            hint="add the format to disk.formats of the spec, or build again",
        )
    disk = Path(facts.disks[0].paths[chosen])
    size = probe(disk, chosen).virtual_size
    known = _fingerprints(root).get(str(disk.relative_to(root)))
    untouched = disk.exists() and list(marks(disk.lstat())) == known
    digest = disks[chosen].sha256 if untouched else sha256_sparse(disk)
    kernel = Path(facts.kernel) if facts.kernel else None
    initrd = Path(facts.initrd) if facts.initrd else None
    listed = manifest.packages
    packages = None if listed is None else frozenset(package.name for package in listed)
    return Golden(root, facts, disk, chosen, size, digest, kernel, initrd, packages)


def _fingerprints(build: Path) -> dict[str, Any]:
    try:
        value = json.loads((build / STATE).read_text())
        return cast(dict[str, Any], value.get("fingerprints", {}))
    except (OSError, ValueError, AttributeError):
        return {}


@dataclass(frozen=True)
class Base:
    """A shared copy of a golden image: ``disk`` is raw or qcow2, a VHD for chains."""

    directory: Path
    disk: Path
    format: DiskFormat
    kernel: Path | None
    initrd: Path | None


@contextlib.contextmanager
def bases_locked() -> Iterator[None]:
    """Hold all shared copies against being made and removed by two at once."""
    root = state_root()
    os.close(make_folder(root, 0o700))
    fd = os.open(root / "bases.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def base_directory(golden: Golden, directory: Path, *, chain: bool = False) -> Path:
    """Where the shared copy of ``golden`` lies, for guests in ``directory``; ``chain`` for those
    that are links of a VHD chain."""
    name = golden.sha256[:32] + ("-vhd" if chain else "")
    return directory.absolute() / ".golden" / name


def make_base(golden: Golden, final: Path, *, chain: bool = False) -> Base:
    """The shared copy of ``golden`` in ``final``, made if it is not there yet.

    A VHD stays one for a ``chain`` only. Call it with :func:`bases_locked`, with the base written
    into a journal before.
    """
    if not final.is_dir():
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = _part(final)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if golden.format == "vhd" and not chain:
            unpack_vhd(golden.disk, part / "disk.raw")
        else:
            copy_sparse(golden.disk, part / f"disk.{golden.format}")
        for source, name in ((golden.kernel, "vmlinuz"), (golden.initrd, "initrd.img")):
            if source is not None:
                shutil.copyfile(source, part / name)
        part.rename(final)
    disk, image_format = disk_of_base(final)
    return Base(
        final,
        disk,
        image_format,
        final / "vmlinuz" if golden.kernel else None,
        final / "initrd.img" if golden.initrd else None,
    )


def _part(final: Path) -> Path:
    return final.with_name(f".{final.name}.part")


def drop_base(directory: Path) -> bool:
    """Remove the shared copy ``directory`` if no journal names it any more.

    Call it with :func:`bases_locked`.
    """
    if directory.parent.name != ".golden":
        return False
    for path in guests_directory().glob("*.journal"):
        if directory in Journal(path.stem, path).bases():
            return False
    for path in (directory, _part(directory)):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()
    return True


def undo(found: Journal) -> None:
    """Undo everything in a locked journal, and the shared copy it was the last to stand on."""
    bases = set(found.bases())
    found.undo()
    if bases:
        with bases_locked():
            for base in bases:
                drop_base(base)


def sweep() -> list[str]:
    """Undo what killed provisions left; returns the guests' names. Busy ones are left alone."""
    swept = []
    for path in sorted(guests_directory().glob("*.journal")):
        # What cannot be undone now (a volume that is in use) is tried again the next time.
        with contextlib.suppress(ImagekitError), journal(path.stem) as found:
            if found.path.exists() and not found.finished:
                undo(found)
                swept.append(path.stem)
    return swept
