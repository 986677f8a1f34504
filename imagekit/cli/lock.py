"""``imagekit verify-reproducible`` and ``imagekit lock``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imagekit.cli import console
from imagekit.cli.build import JsonOption, SetOption, SpecArgument
from imagekit.errors import ImageError, SpecError
from imagekit.host.outfile import replacing
from imagekit.locks.changes import changes
from imagekit.locks.reproduce import verify_reproducible as verify
from imagekit.locks.update import update_lock
from imagekit.pipeline.workspace import workspace
from imagekit.spec.derived import DEFAULT_EPOCH, source_date_epoch
from imagekit.spec.load import load_spec
from imagekit.spec.lock import lock_text, read_lock


class _Group(TyperGroup):
    """Takes ``imagekit lock --update`` for ``imagekit lock update``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["--update"]:
            args = ["update", *args[1:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group, no_args_is_help=True, help="Compare and update the locks that builds write."
)


def verify_reproducible(
    spec: SpecArgument, set_: SetOption = None, json_output: JsonOption = False
) -> None:
    """Build a spec twice, in different directories, as different hosts, and compare the disks.

    SOURCE_DATE_EPOCH is taken from the environment if it is set there.
    """
    epoch = source_date_epoch(os.environ)
    epoch = DEFAULT_EPOCH if epoch is None else epoch
    with console.events_for(False) as events, workspace(events) as space:
        verdict = verify(spec, set_ or [], epoch, workspace=space)
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
    """Say what changed between the builds of two locks; exit 1 when anything did, as diff(1)."""
    found = changes(read_lock(old), read_lock(new))
    if json_output:
        print(json.dumps([vars(change) for change in found], indent=2))
    else:
        for change in found:
            print(change)
        if not found:
            print("nothing changed")
    raise typer.Exit(1 if found else 0)


@app.command()
def update(
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="[PACKAGE]...", help="Default: all of them.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="The spec of the lock.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="LOCK", help="Default: NAME.lock beside the spec."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: the lock is replaced.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --output names.")] = False,
    set_: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Lock what the mirrors have now: all packages, or some and what they need; say what changed.

    Builds nothing; imagekit build --locked does. imagekit lock --update is the same.
    """
    if spec is None:
        raise SpecError("name the spec that the lock belongs to", where="--spec")
    file = load_spec(spec, set_ or [])
    source = lock or spec.parent / f"{file.spec.name}.lock"
    old = read_lock(source)
    with console.events_for(False) as events, workspace(events) as space:
        new, gone = update_lock(old, file, packages or [], workspace=space)
    with replacing(out or source, overwrite=force or out is None, mode=0o666) as part:
        part.write_text(lock_text(new))
    found = changes(old, new)
    if json_output:
        print(json.dumps({"changes": [vars(c) for c in found], "gone": gone}, indent=2))
        return
    for change in found:
        print(change)
    for name in gone:
        print(f"the mirrors no longer had {name} as the lock named it")
    if not found:
        print("nothing changed")


@app.command()
def show(lock: Annotated[Path, typer.Argument(metavar="LOCK")]) -> None:
    """Print a lock as JSON, checked."""
    print(read_lock(lock).model_dump_json(indent=2))
