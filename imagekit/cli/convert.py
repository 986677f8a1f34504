"""``imagekit convert``: one disk image format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from imagekit.disk import convert as disk_convert
from imagekit.disk.qcow2 import Compression
from imagekit.disk.reading import detect
from imagekit.disk.vhd import Subformat


def convert(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="The image to read.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="The image to write.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="raw, qcow2 or vhd; default: DST's suffix."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="raw, qcow2 or vhd; default: SRC's magic number. Raw must always be named.",
        ),
    ] = None,
    subformat: Annotated[
        str, typer.Option("--subformat", metavar="dynamic|fixed", help="Kind of VHD to write.")
    ] = "dynamic",
    compress: Annotated[
        str | None,
        typer.Option("--compress", metavar="zlib|zstd", help="Compress a qcow2."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite DST if it exists.")] = False,
) -> None:
    """Convert a disk image between raw, qcow2 and VHD; holes stay holes."""
    info = disk_convert.convert(
        src,
        dst,
        source_format=from_ or detect(src),
        target_format=to or disk_convert.format_of_name(dst),
        vhd_subformat=cast(Subformat, subformat),
        compression=cast(Compression | None, compress),
        overwrite=force,
    )
    typer.echo(f"{info.path}: {info.format}, a disk of {info.virtual_size} bytes")
