"""``imagekit kernel``: what a kernel and its initrd can boot as under Xen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imagekit.kernel.reading import examine
from imagekit.kernel.report_text import as_text


def kernel(
    vmlinuz: Annotated[Path, typer.Argument(metavar="VMLINUZ", help="A bzImage or ELF kernel.")],
    initrd: Annotated[
        Path | None, typer.Option("--initrd", metavar="FILE", help="The initrd that goes with it.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Its configuration, /boot/config-RELEASE."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell whether a kernel boots as PV, PVH and HVM, with the evidence for each."""
    report = examine(vmlinuz, initrd=initrd, config=config)
    print(json.dumps(report.to_json(), indent=2) if json_output else as_text(report))
