"""``imagekit cache``: what the store holds, and making it smaller."""

from __future__ import annotations

from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.errors import SpecError
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import cache_root, sweep
from imagekit.spec.values import parse_size

app = typer.Typer(help="The store of stage results.", no_args_is_help=True)


@app.command()
def prune(
    keep: Annotated[
        str, typer.Option("--keep", metavar="SIZE", help="Shrink to SIZE; most recently used stay.")
    ] = "0B",
) -> None:
    """Remove the least recently used results, and what killed runs left behind."""
    try:
        limit = parse_size(keep)
    except ValueError as error:
        raise SpecError(str(error), where="--keep") from None
    store = Store()
    work = cache_root() / "work"
    if work.is_dir():
        sweep(work)
    store.sweep()
    removed, left = store.prune(limit)
    print(f"{removed} results removed, {console.size(left)} left in {store.root}")


@app.command()
def path() -> None:
    """Print the directory of the store."""
    print(Store().root)
