"""Disk images in a gzipped tar, as nova's image handlers for XenServer fetch them.

``direct_vhd`` and ``vdi_remote_stream`` want one dynamic VHD called ``0.vhd`` (a chain would go on
with ``1.vhd``), ``vdi_local_dev`` a raw image called ``disk.raw``. Source: openstack/os-xenapi,
``plugins/glance.py``; openstack/nova 20, ``nova/virt/xenapi/image/{utils,vdi_stream}.py``.
"""

from __future__ import annotations

import gzip
import itertools
import tarfile
from pathlib import Path
from typing import IO, Literal, Protocol

from imagekit.disk.extents import BLOCK, data_extents, opened, read_exactly, size_of
from imagekit.disk.reading import probe
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import CapabilityError, ImageError
from imagekit.toolstacks.output import SECRET, OutputFile

Handler = Literal["direct_vhd", "vdi_remote_stream", "vdi_local_dev"]
"""A value of ``[xenserver] image_handler`` in nova.conf."""

MEMBERS = {"direct_vhd": "0.vhd", "vdi_remote_stream": "0.vhd", "vdi_local_dev": "disk.raw"}
FORMATS = {"direct_vhd": "vhd", "vdi_remote_stream": "vhd", "vdi_local_dev": "raw"}

_LEVEL = 4


class Writable(Protocol):
    """Anything bytes can be written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of ``data``."""


def write_tarball(image: Path, handler: Handler, stream: IO[bytes]) -> None:
    """Stream ``image``, of the handler's format, into ``stream`` as its tar.gz.

    The same image makes the same bytes. Memory stays at a few MiB. Raises ImageError for a VHD that
    is damaged or not dynamic, HostError for an image that cannot be read.
    """
    if FORMATS[handler] == "vhd":
        _check_dynamic(image)
    with (
        opened(image) as fd,
        gzip.GzipFile("", "wb", _LEVEL, fileobj=stream, mtime=0) as packed,
    ):
        member = tarfile.TarInfo(MEMBERS[handler])
        member.size = size_of(fd)
        # GNU's header, for members of 8 GiB and more; dom0's tar is GNU tar.
        packed.write(member.tobuf(tarfile.GNU_FORMAT))
        copy_whole(fd, packed, member.size)
        packed.write(bytes(-member.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))


def _check_dynamic(image: Path) -> None:
    info = probe(image, "vhd")
    if info.details.get("subformat") != "dynamic":
        raise ImageError(
            "is not a dynamic VHD, which XenServer's storage wants",
            where=str(image),
            hint="imagekit convert --to vhd --subformat dynamic",
        )


def copy_whole(fd: int, stream: Writable, size: int) -> None:
    """Write all ``size`` bytes of an open file into ``stream``, holes as zeros without reading.

    Raises HostError when the file is shorter.
    """
    buffer = bytearray(BLOCK)
    zeros = bytes(BLOCK)
    position = 0
    with memoryview(buffer) as view:
        for offset, length in itertools.chain(data_extents(fd), [(size, 0)]):
            while position < min(offset, size):
                step = min(BLOCK, offset - position)
                stream.write(zeros[:step])
                position += step
            end = min(offset + length, size)
            while position < end:
                piece = view[: min(BLOCK, end - position)]
                read_exactly(fd, piece, position)
                stream.write(piece)
                position += len(piece)


def image_for(facts: BuildFacts, handler: Handler, position: int = 0) -> Path:
    """The image of a disk that ``handler`` packs; raises CapabilityError when none was built."""
    kind = FORMATS[handler]
    for disk in facts.disks[position : position + 1]:
        for built, path in disk.paths.items():
            if built == kind:
                return Path(path)
    raise CapabilityError(
        f"{handler} wants a {kind} image, and the build has none",
        where="format",
        hint=f"imagekit convert --to {kind} makes one",
    )


def tarball_file(
    domain: Domain, facts: BuildFacts, handler: Handler, position: int = 0
) -> dict[str, OutputFile]:
    """A disk's tar.gz for an image handler, by name, streamed when it is written.

    It is ``NAME.vhd.tgz`` or ``NAME.raw.tgz`` for the first disk, ``NAME-xvdb.vhd.tgz`` for
    another. Raises CapabilityError when the handler's format was not built.
    """
    image = image_for(facts, handler, position)

    def stream(target: IO[bytes]) -> None:
        write_tarball(image, handler, target)

    stem = f"{domain.name}-{domain.disks[position].vdev}" if position else domain.name
    return {f"{stem}.{FORMATS[handler]}.tgz": OutputFile(stream, SECRET)}
