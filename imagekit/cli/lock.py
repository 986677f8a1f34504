"""``imagekit verify-reproducible`` and ``imagekit lock``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.cli.build import JsonOption, SetOption, SpecArgument
from imagekit.errors import ImageError, SpecError
from imagekit.installs.locking import read_lock
from imagekit.pipeline.workspace import workspace
from imagekit.recovery.lock import changes
from imagekit.recovery.reproduce import verify_reproducible as verify

DEFAULT_EPOCH = 1_700_000_000

app = typer.Typer(no_args_is_help=True, help="Compare the locks that builds write.")


def verify_reproducible(
    spec: SpecArgument, set_: SetOption = None, json_output: JsonOption = False
) -> None:
    """Build a spec twice, in different directories, as different hosts, and compare the disks.

    SOURCE_DATE_EPOCH is taken from the environment if it is set there.
    """
    value = os.environ.get("SOURCE_DATE_EPOCH", str(DEFAULT_EPOCH))
    if not value.isdigit():
        raise SpecError("SOURCE_DATE_EPOCH is not a number of seconds", where="environment")
    with console.events_for(False) as events, workspace(events) as space:
        verdict = verify(spec, set_ or [], int(value), workspace=space)
    if json_output:
        difference = vars(verdict.difference) if verdict.difference else None
        print(json.dumps({"digests": verdict.digests, "difference": difference}, indent=2))
    if verdict.difference is not None:
        raise ImageError(f"the two builds differ first in {verdict.difference}")
    if not json_output:
        for path, digest in verdict.digests.items():
            print(f"{digest}  {path}")
        print("both builds are the same, byte by byte")


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD.lock")],
    new: Annotated[Path, typer.Argument(metavar="NEW.lock")],
    json_output: JsonOption = False,
) -> None:
    """Say what changed between the builds of two locks."""
    found = changes(read_lock(old), read_lock(new))
    if json_output:
        print(json.dumps([vars(change) for change in found], indent=2))
        return
    for change in found:
        print(change)
    if not found:
        print("nothing changed")


@app.command()
def show(lock: Annotated[Path, typer.Argument(metavar="LOCK")]) -> None:
    """Print a lock as JSON, checked."""
    print(read_lock(lock).model_dump_json(indent=2))
