"""``imagekit check``: what would go wrong with an image under Xen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from imagekit.errors import CapabilityError
from imagekit.guest.check import check as guest_check
from imagekit.guest.check import check_and_fix
from imagekit.guest.findings import Finding
from imagekit.guest.working import named_format
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.workspace import workspace


def check(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to check.")],
    mode: Annotated[
        list[str] | None,
        typer.Option(metavar="pv|pvh|hvm", help="It must boot in this mode; may be repeated."),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is safe to repair.")] = False,
    golden: Annotated[
        bool, typer.Option("--golden", help="Instances will be cloned from it: no identity in it.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="raw, qcow2 or vhd; default: its name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report Xen problems in any image; exit 8 when errors remain."""
    image_format = named_format(image, format_)
    repaired: tuple[Finding, ...] = ()
    with workspace(Events([_show_change])) as space:
        if fix:
            done = check_and_fix(image, image_format, mode or (), workspace=space, golden=golden)
            repaired, found = done.repaired, list(done.left)
        else:
            found = guest_check(image, image_format, mode or (), workspace=space, golden=golden)
    if as_json:
        result = {
            "findings": [finding.to_json() for finding in found],
            "repaired": [finding.to_json() for finding in repaired],
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(found, repaired)
    errors = sum(finding.severity == "error" for finding in found)
    if errors:
        raise CapabilityError(
            f"{errors} error{'s' if errors > 1 else ''} found",
            where=str(image),
            hint="imagekit check --fix repairs those that are fixable"
            if any(f.fixable for f in found) and not fix
            else None,
        )


def _show(found: list[Finding], repaired: tuple[Finding, ...]) -> None:
    out = Console(highlight=False)
    for finding in repaired:
        out.print(escape(f"repaired {finding.code}: {finding.what}"), soft_wrap=True)
    if not found:
        out.print("nothing to complain about" if not repaired else "nothing is left")
        return
    table = Table("severity", "mode", "finding", "under Xen", "what to do", show_lines=True)
    for finding in found:
        todo = f"{finding.fix} (--fix does it)" if finding.fixable else finding.fix
        row = (finding.severity, finding.mode, finding.what, finding.consequence, todo)
        table.add_row(*map(escape, row))
    out.print(table)


def _show_change(event: Event) -> None:
    if event.kind == "change":
        print(event.fields["text"], file=sys.stderr, flush=True)
