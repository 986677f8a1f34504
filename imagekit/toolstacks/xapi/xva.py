"""XVA, the file that ``xe vm-import`` takes: a VM's records and the content of its disks.

A ustar stream, written in one pass: ``ova.xml``, then each disk in pieces of 1 MiB under
``Ref:N/00000000`` with its SHA-1 beside it. Pieces of zeros are left out, except the first and the
last of a disk; a reader tells how many by the size of the very first piece in the file.

Source: xapi-project/xen-api, ``ocaml/xapi/export.ml``, ``import.ml`` and ``stream_vdi.ml``
(export version 2).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imagekit.disk.extents import Progress, data_blocks, opened, size_of
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import ImageError
from imagekit.toolstacks.output import SECRET, Line, OutputFile, joined
from imagekit.toolstacks.xapi.xva_objects import VdiSource, ova_lines, ova_objects, raw_path

CHUNK = 1 << 20
_ZEROS = bytes(CHUNK)


@dataclass(frozen=True)
class Disk:
    """A disk to stream: its reference in ``ova.xml``, its raw image, its size there in bytes."""

    reference: str
    path: Path
    size: int


def write_xva(
    domain: Domain, facts: BuildFacts, stream: IO[bytes], *, progress: Progress | None = None
) -> None:
    """Stream ``domain`` and its disks into ``stream``, which need not be seekable.

    The disks' raw images are read where ``facts`` or the domain place them; holes are not read.
    Memory stays at a few MiB. Raises SpecError for what XAPI cannot express, CapabilityError for a
    disk without a raw image, HostError for an image that cannot be read.
    """
    sources = disk_sources(domain, facts)
    objects = ova_objects(domain, tuple(VdiSource(s.reference, s.size) for s in sources))
    _add(stream, "ova.xml", joined(ova_lines(objects)).encode())
    # XAPI reads the disks in the order of their references as text.
    for source in sorted(sources, key=lambda s: s.reference):
        _add_disk(stream, source, progress)
    stream.write(bytes(2 * tarfile.BLOCKSIZE))


def disk_sources(domain: Domain, facts: BuildFacts) -> list[Disk]:
    """Every disk of ``domain`` with content, and its size rounded up to whole sectors.

    A disk below 1 MiB is rounded up to that, for its first piece has to be a whole one.
    """
    found = []
    for position, disk in enumerate(domain.disks):
        if disk.target is None:
            continue
        path = Path(raw_path(facts, disk, position))
        with opened(path) as fd:
            found.append(Disk(vdi_reference(position), path, _rounded(size_of(fd))))
    return found


def _rounded(size: int) -> int:
    return max(-(-size // 512) * 512, CHUNK)


def vdi_reference(position: int) -> str:
    """The reference of the VDI of the domain's disk number ``position``."""
    return f"Ref:{1000 + position}"


def _add(stream: IO[bytes], name: str, content: bytes | memoryview) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    stream.write(header.tobuf(tarfile.USTAR_FORMAT))
    stream.write(content)
    stream.write(bytes(-len(content) % tarfile.BLOCKSIZE))


def _add_disk(stream: IO[bytes], disk: Disk, progress: Progress | None) -> None:
    with opened(disk.path) as fd:
        if _rounded(size_of(fd)) != disk.size:
            raise ImageError("changed its size while it was read", where=str(disk.path))
        for number, content in _pieces(fd, disk.size, progress):
            name = f"{disk.reference}/{number:08d}"
            digest = hashlib.sha1(content, usedforsecurity=False)
            _add(stream, name, content)
            _add(stream, f"{name}.checksum", digest.hexdigest().encode())


def _pieces(fd: int, size: int, progress: Progress | None) -> Iterator[tuple[int, memoryview]]:
    """The first, the last and every nonzero piece of a disk, by number."""
    last = (size - 1) // CHUNK
    done = -1
    zeros = memoryview(_ZEROS)
    for offset, block in data_blocks(fd, block=CHUNK, limit=size, progress=progress):
        number = offset // CHUNK
        if done < 0 < number:
            yield 0, zeros
        yield number, memoryview(block)[: size - offset]
        done = number
    if done < 0:
        yield 0, zeros
    if done < last and last > 0:
        yield last, zeros[: size - last * CHUNK]


class XvaEmitter:
    """The ``xva`` toolstack: its one text is ``ova.xml``, its file the whole VM."""

    name = "xva"

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`; reads the sizes of the images."""
        sources = tuple(VdiSource(s.reference, s.size) for s in disk_sources(domain, facts))
        return ova_lines(ova_objects(domain, sources))

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return joined(self.lines(domain, facts))

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """One file, ``NAME.MODE.xva``, which is streamed when it is written."""
        self.lines(domain, facts)
        content = OutputFile(lambda stream: write_xva(domain, facts, stream), SECRET)
        return {f"{domain.name}.{domain.mode}.xva": content}


EMITTER = XvaEmitter()
