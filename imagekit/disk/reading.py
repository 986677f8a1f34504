"""Disk images of strangers, read by a worker that can do nothing else.

The door for images from users, guests, bundles and networks. The readers behind it are plain
functions of an open file; ``imagekit.host.worker`` says what stands around them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagekit.disk.extents import Progress, opened, refuse_same, writable
from imagekit.disk.image_info import ImageInfo, check_format, detect_open, probe_open
from imagekit.disk.vhd_chain import MAX_LINKS, copy_chain, open_chain
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors, replacing
from imagekit.host.worker import MIB, Confined, Limits

# A block table is 128 MiB at most, and is held with what was taken (vhd_reader).
_HEADERS = Limits(memory=1024 * MIB, cpu_seconds=60, answer=MIB)
_DONE = struct.Struct("<QQ")
_SLOWEST = 10 * MIB
"""Bytes that are surely copied in a second of processor time."""


def probe(path: Path, format: str) -> ImageInfo:
    """What the image at ``path`` is, read as ``format`` and nothing else; see ``image_info.probe``.

    Raises ImageError, SpecError.
    """
    check_format(format)
    with opened(path) as fd:
        return _PROBE(str(path), [fd], path, format)


def detect(path: Path) -> str:
    """``qcow2`` or ``vhd`` by magic number; raises ImageError and SpecError (``image_info``)."""
    with opened(path) as fd:
        return _DETECT(str(path), [fd], path)


def unpack_vhd(
    src: Path, dst_raw: Path, *, progress: Progress | None = None, overwrite: bool = False
) -> None:
    """Write the content of the VHD ``src`` as a sparse raw image; see ``vhd.read_vhd``.

    Raises ImageError, ExistsError, SpecError, HostError; leaves nothing half written.
    """
    with opened(src) as fd:
        refuse_same(src, dst_raw)
        size = _PROBE(str(src), [fd], src, "vhd").virtual_size
        seconds = 120 + size // _SLOWEST
        unpack = _UNPACK.within(cpu_seconds=seconds, seconds=10.0 * seconds, file_bytes=size)
        with (
            replacing(dst_raw, overwrite=overwrite) as part,
            writable(part) as out,
            _followed(progress) as told,
        ):
            unpack(str(src), [fd, out, told], src, dst_raw)


def unpack_chain(chain: Sequence[Path], dst_raw: Path, *, overwrite: bool = False) -> None:
    """Write the content of a chain of VHDs, the leaf first and its base last, as a raw image.

    Only the files that the caller lists are read; see ``vhd_chain.open_chain``. Raises ImageError,
    SpecError, ExistsError, HostError; leaves nothing half written.
    """
    if not 1 <= len(chain) <= MAX_LINKS:
        raise SpecError(f"a chain has 1 to {MAX_LINKS} disks, not {len(chain)}")
    where, paths = str(chain[0]), tuple(chain)
    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(opened(path)) for path in paths]
        size = _CHAIN(where, fds, paths)
        seconds = 120 + len(paths) * size // _SLOWEST
        unpack = _COPY_CHAIN.within(cpu_seconds=seconds, seconds=10.0 * seconds, file_bytes=size)
        part = stack.enter_context(replacing(dst_raw, overwrite=overwrite))
        out = stack.enter_context(writable(part))
        unpack(where, [*fds, out], paths, dst_raw)


def _probed(files: tuple[int, ...], path: Path, format: str) -> ImageInfo:
    return probe_open(files[0], path, format)


def _detected(files: tuple[int, ...], path: Path) -> str:
    return detect_open(files[0], path)


def _unpacked(files: tuple[int, ...], src: Path, dst: Path) -> None:
    source, target, told = files
    disk = VhdReader(source, str(src))
    with os_errors(dst):
        os.ftruncate(target, disk.footer.current_size)
        disk.copy_to(target, functools.partial(_tell, told))


def _chain_size(files: tuple[int, ...], chain: tuple[Path, ...]) -> int:
    return open_chain(files, chain)[0].footer.current_size


def _chain_copied(files: tuple[int, ...], chain: tuple[Path, ...], dst: Path) -> None:
    with os_errors(dst):
        copy_chain(files[:-1], chain, files[-1])


def _tell(told: int, done: int, total: int) -> None:
    os.write(told, _DONE.pack(done, total))


@contextlib.contextmanager
def _followed(progress: Progress | None) -> Iterator[int]:
    """A descriptor for :func:`_tell`; ``progress`` is called in a thread while the block lasts."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    thread = threading.Thread(target=_follow, args=(reading, progress), daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        thread.join()
        os.close(reading)


def _follow(reading: int, progress: Progress | None) -> None:
    # What a worker writes at once stays together: it is shorter than PIPE_BUF (pipe(7)).
    while len(data := os.read(reading, _DONE.size)) == _DONE.size:
        if progress is not None:
            progress(*_DONE.unpack(data))


_PROBE = Confined(_probed, "the image", _HEADERS)
_DETECT = Confined(_detected, "the image", _HEADERS)
_UNPACK = Confined(_unpacked, "the VHD", _HEADERS)
_CHAIN = Confined(_chain_size, "the chain of VHDs", _HEADERS)
_COPY_CHAIN = Confined(_chain_copied, "the chain of VHDs", _HEADERS)
