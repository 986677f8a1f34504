"""``imagekit cache``: what the store holds, and making it smaller."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.errors import SpecError
from imagekit.pipeline.bounds import Bounds, Result, bounds, disk_usage, prune, results
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import cache_root, sweep
from imagekit.spec.values import parse_size

app = typer.Typer(help="The store of stage results.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("prune")
def prune_command(
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SIZE",
            help="Shrink to SIZE; most recently used stay. Default: the limit of the store.",
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Remove every result that no running build uses.")
    ] = False,
) -> None:
    """Remove the least recently used results, and what killed runs left behind.

    Builds do this by themselves: the store keeps below its limit ("imagekit cache size").
    """
    if keep is not None and all_:
        raise SpecError("--keep and --all contradict each other", where="--all", hint="pass one")
    store = Store()
    work = cache_root() / "work"
    if work.is_dir():
        sweep(work)
    store.sweep()
    done = prune(store.root, _limits(store.root, keep, everything=all_))
    print(f"{done.removed} results removed, {console.size(done.left)} left in {store.root}")


def _limits(root: Path, keep: str | None, *, everything: bool) -> Bounds:
    usual = bounds(root)
    if everything:
        return replace(usual, size=0)
    if keep is None:
        return usual
    try:
        return replace(usual, size=parse_size(keep))
    except ValueError as error:
        raise SpecError(str(error), where="--keep") from None


@app.command("list")
def list_command(json_output: JsonOption = False) -> None:
    """List the stored results, the most recently used first.

    Files that builds fetched, such as packages, are in one line; --json has each.
    """
    found = results(Store().root)[::-1]
    if json_output:
        print(json.dumps([_plain(result) for result in found], indent=2))
        return
    for result in found:
        row = _plain(result)
        label = f"{row['guest'] or '-'} {row['stage'] or '-'}"
        if not result.fetched:
            print(f"{row['used']}  {console.size(result.bytes):>10}  {result.key[:12]}  {label}")
    if files := [result.bytes for result in found if result.fetched]:
        print(f"{'':20}  {console.size(sum(files)):>10}  {len(files)} fetched files")


def _plain(result: Result) -> dict[str, str | int]:
    used = datetime.datetime.fromtimestamp(result.used, datetime.UTC)
    return {
        "key": result.key,
        "kind": "fetched" if result.fetched else "result",
        "stage": result.record.stage,
        "guest": result.record.guest,
        "bytes": result.bytes,
        "used": used.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@app.command("size")
def size_command(json_output: JsonOption = False) -> None:
    """Print how large the store is, and its limits.

    The limit is the smaller of 20 GiB and a quarter of the file system, unless IMAGEKIT_CACHE_SIZE
    or cache.size in /etc/imagekit/imagekit.toml or ~/.config/imagekit/imagekit.toml sets it.
    IMAGEKIT_CACHE_FREE or cache.free sets how much of the file system must stay free.
    """
    root = Store().root
    used, limits = disk_usage(root), bounds(root)
    if json_output:
        print(json.dumps({"bytes": used, "limit": limits.size, "free": limits.free}))
        return
    print(
        f"{console.size(used)} of at most {console.size(limits.size)} in {root}; "
        f"{console.size(limits.free)} of its file system stay free"
    )


@app.command()
def path() -> None:
    """Print the directory of the store."""
    print(Store().root)
