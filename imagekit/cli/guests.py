"""``imagekit guests``: the guest database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imagekit.domain import guestdb

app = typer.Typer(help="The guest database, guests.yaml.", no_args_is_help=True)
File = Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="The database.")]


@app.command("list")
def list_guests(
    file: File = Path("guests.yaml"),
    host: Annotated[
        str | None, typer.Option("--host", help="Only the guests of this host.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, json or pan (XEN_DB).")] = "text",
) -> None:
    """List guests, host by host."""
    found = guestdb.load(file)
    if form == "pan":
        typer.echo(found.xen_db(), nl=False)
        return
    lists = {name: list_ for name, list_ in found.by_host().items() if host in (None, name)}
    if form == "json":
        plain = {name: [guest.model_dump() for guest in list_] for name, list_ in lists.items()}
        typer.echo(json.dumps(plain, indent=2))
        return
    for name, list_ in lists.items():
        typer.echo(f"{name or '(not assigned)'}:")
        for guest in list_:
            typer.echo(
                f"  {guest.name}  {guest.mac}  {guest.ip or '-'}  {guest.os}  {guest.method}"
            )


@app.command()
def show(name: str, file: File = Path("guests.yaml")) -> None:
    """Show one guest."""
    typer.echo(json.dumps(guestdb.load(file).get(name).model_dump(), indent=2))


@app.command()
def assign(
    name: str,
    host: Annotated[str, typer.Argument(help="The new host; '' takes the guest off its host.")],
    file: File = Path("guests.yaml"),
) -> None:
    """Put a guest on a host, and nowhere else."""
    guest = guestdb.assign(file, name, host)
    typer.echo(f"{guest.name} is on {guest.host}" if guest.host else f"{guest.name} is on no host")
