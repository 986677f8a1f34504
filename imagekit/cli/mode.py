"""``imagekit mode``: what kind of Xen guest this system is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imagekit.proof.guestmode import KINDS, guest_mode


def mode(
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Read /sys and /proc below DIR.")
    ] = Path("/"),
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether this is a PV, PVH or HVM guest, a dom0, or none of Xen's, and what shows it."""
    found = guest_mode(root)
    if json_output:
        value = {"mode": found.kind, "name": KINDS[found.kind], "evidence": list(found.evidence)}
        print(json.dumps(value))
        return
    print(KINDS[found.kind])
    for line in found.evidence:
        print(f"  {line}")
