"""Any of raw, qcow2 and VHD into any other, from images nobody vouches for."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from imagekit.disk import qcow2, qemu_img, vhd
from imagekit.disk.extents import (
    Progress,
    copy_sparse,
    data_blocks,
    data_size,
    nonzero_runs,
    opened,
    refuse_same,
)
from imagekit.disk.image_info import ImageInfo, check_format
from imagekit.disk.reading import probe, unpack_vhd
from imagekit.disk.settled import settled
from imagekit.errors import HostError, SpecError
from imagekit.host.outfile import check_target, os_errors, replacing, temporary_name

SUFFIXES = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vhd": "vhd"}
"""The format a target's name asks for."""


def format_of_name(path: Path) -> str:
    """The format the suffix of ``path`` names. Raises SpecError when it names none."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise SpecError(
            "its name does not tell the format to write",
            where=str(path),
            hint="say it: --to raw|qcow2|vhd, or end the name in " + ", ".join(SUFFIXES),
        )
    return found


def convert(
    src: Path,
    dst: Path,
    *,
    source_format: str,
    target_format: str,
    vhd_subformat: vhd.Subformat = "dynamic",
    compression: qcow2.Compression | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImageInfo:
    """Write the disk in ``src`` to ``dst`` in another format and say what came out.

    ``dst`` appears whole or not at all. Raises ImageError for a damaged or hostile source,
    ExistsError when ``dst`` exists and ``overwrite`` is false, SpecError for options that do not
    fit, HostError when there is not enough space.
    """
    check_format(source_format)
    check_format(target_format)
    _check_options(target_format, vhd_subformat, compression)
    probe(src, source_format)
    refuse_same(src, dst)
    check_target(dst, overwrite=overwrite)
    last = functools.partial(
        _write,
        dst=dst,
        target_format=target_format,
        overwrite=overwrite,
        vhd_subformat=vhd_subformat,
        compression=compression,
    )
    # From here on it is one and the same file, so that what is checked is what is converted.
    with settled(src, dst.absolute().parent) as source:
        _convert(probe(source, source_format), dst, last, target_format, compression, progress)
    return probe(dst, target_format)


def _convert(
    info: ImageInfo,
    dst: Path,
    last: Callable[..., None],
    target_format: str,
    compression: qcow2.Compression | None,
    progress: Progress | None,
) -> None:
    source_format = info.format
    if target_format == "vhd":
        vhd.virtual_size_of(info.virtual_size)
    direct = source_format == "raw" or target_format == "raw" or source_format == target_format
    direct = direct and (source_format, target_format) != ("vhd", "vhd")
    if source_format == "qcow2":
        qemu_img.check(info.path, "qcow2")
    if compression is None:
        _check_space(info, dst, copies=1 if direct else 2)
    if direct:
        last(info, progress=progress)
    else:
        with _intermediate(dst) as middle:
            _write(info, middle, "raw", overwrite=False, progress=_half(progress, 0))
            raw = ImageInfo(middle, "raw", info.virtual_size)
            last(raw, progress=_half(progress, 1))


def _check_options(
    target_format: str, vhd_subformat: str, compression: qcow2.Compression | None
) -> None:
    if compression is not None and target_format != "qcow2":
        raise SpecError(f"{target_format} cannot be compressed", hint="only qcow2 can")
    if compression not in (None, "zlib", "zstd"):
        raise SpecError(f"the compression {compression!r} is unknown", hint="use zlib or zstd")
    if vhd_subformat not in ("dynamic", "fixed"):
        raise SpecError(f"the VHD subformat {vhd_subformat!r} is unknown", hint="dynamic or fixed")
    if vhd_subformat != "dynamic" and target_format != "vhd":
        raise SpecError(f"{target_format} has no subformats", hint="only VHD has")


def _write(
    info: ImageInfo,
    dst: Path,
    target_format: str,
    *,
    overwrite: bool,
    progress: Progress | None,
    vhd_subformat: vhd.Subformat = "dynamic",
    compression: qcow2.Compression | None = None,
) -> None:
    """One step that needs no intermediate file."""
    src = info.path
    if info.format == "vhd":
        unpack_vhd(src, dst, overwrite=overwrite, progress=progress)
    elif info.format == "qcow2":
        options = () if target_format == "raw" else qcow2.write_options(compression)
        with replacing(dst, overwrite=overwrite) as part:
            qemu_img.convert(
                src,
                part,
                source_format="qcow2",
                target_format=target_format,
                options=options,
                size_bytes=info.virtual_size,
                progress=progress,
            )
    elif target_format == "raw":
        copy_sparse(src, dst, overwrite=overwrite, progress=progress)
    elif target_format == "qcow2":
        qcow2.write_qcow2(src, dst, compression=compression, overwrite=overwrite, progress=progress)
    else:
        vhd.write_vhd(src, dst, subformat=vhd_subformat, overwrite=overwrite, progress=progress)


@contextlib.contextmanager
def _intermediate(dst: Path) -> Iterator[Path]:
    """A name beside ``dst`` for a raw image that is removed at the end."""
    middle = temporary_name(dst)
    try:
        yield middle
    finally:
        middle.unlink(missing_ok=True)


def _half(progress: Progress | None, part: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(part * total + done, 2 * total)


def _check_space(info: ImageInfo, dst: Path, copies: int) -> None:
    """Raise HostError when the data cannot fit beside ``dst``, before anything is written."""
    with os_errors(dst):
        status = os.statvfs(dst.absolute().parent)
        free = status.f_bavail * status.f_frsize
        needed = _data_estimate(info) * copies
        if needed > free and info.format == "raw":
            # Fully allocated images are often zeros for the most part; those are not written.
            needed = _nonzero_size(info.path) * copies
    if needed > free:
        raise HostError(
            f"about {needed >> 20} MiB are needed and {free >> 20} MiB are free",
            where=str(dst.absolute().parent),
            hint="free some space or write to another file system",
        )


def _data_estimate(info: ImageInfo) -> int:
    if info.format == "qcow2":
        return qemu_img.measure(info.path, "qcow2")
    if info.format == "vhd":
        return min(int(info.details["data_size"]), data_size(info.path))
    return data_size(info.path)


def _nonzero_size(path: Path) -> int:
    with opened(path) as fd:
        return sum(
            stop - start for _, content in data_blocks(fd) for start, stop in nonzero_runs(content)
        )
