"""``imagekit inspect``: what is in an image and how it can boot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from imagekit.guest.devices import partition_name
from imagekit.guest.inspect import inspect as guest_inspect
from imagekit.guest.inspection import Inspection
from imagekit.guest.working import named_format
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.spec.values import format_size


def inspect(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to look at.")],
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="raw, qcow2 or vhd; default: its name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show partitions, system, kernels, the default boot entry, and which boot paths work."""
    image_format = named_format(image, format_)
    with workspace(Events()) as space:
        found = guest_inspect(image, image_format, workspace=space)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _show(found)


def _show(found: Inspection) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"{found.format}, {format_size(found.virtual_size)}, partition table: {found.disk.table}"
    )
    if found.os:
        out.print(escape(f"{found.os.name or found.os.distribution} ({found.os.arch})"), end="")
        out.print(escape(f", host name {found.hostname}") if found.hostname else "")
    mounts = dict((d, p) for p, d in found.root.mounts) if found.root else {}
    table = Table("where", "type", "size", "mounted at", "label", "uuid")
    for held in found.disk.filesystems:
        row = (
            *(partition_name(held.device), held.type, format_size(held.size)),
            *(mounts.get(held.device, ""), held.label or "", held.uuid or ""),
        )
        table.add_row(*map(escape, row))
    out.print(table)
    entry = found.default_entry
    if entry:
        out.print(escape(f"pygrub boots: {entry.title} ({entry.config} on {entry.filesystem})"))
        out.print(
            escape(f"  kernel {entry.kernel}\n  initrd {entry.initrd}\n  args   {entry.args}")
        )
    for kernel in found.kernels:
        report = kernel.report
        if report is None:
            out.print(escape(f"{kernel.path}: {kernel.problem}"))
            continue
        able = [m for m in ("pv", "pvh", "hvm") if getattr(report, m).capable]
        out.print(escape(f"{kernel.path}: {report.release}, can be {', '.join(able) or 'nothing'}"))
    paths = Table("mode", "boot path", "works", "why")
    for mode, verdicts in found.boot_paths.items():
        for path, verdict in verdicts.items():
            paths.add_row(mode, path, "yes" if verdict.works else "no", escape(verdict.reason))
    out.print(paths)
    for warning in found.warnings:
        out.print(escape(f"warning: {warning}"))
