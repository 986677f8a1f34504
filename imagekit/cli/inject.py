"""``imagekit inject``: change a finished image."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from imagekit.guest import change_options as options
from imagekit.guest.changes import Change
from imagekit.guest.inject import inject as guest_inject
from imagekit.guest.working import named_format
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.workspace import workspace

T = TypeVar("T")


def inject(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to change.")],
    mkdir: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR[:MODE[:OWNER]]", help="Make a directory and its parents."),
    ] = None,
    copy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC:DST[:MODE[:OWNER]]",
            help="Copy a file or tree; DST ending in / keeps the name. OWNER is USER[:GROUP].",
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DST:TEXT|DST:@FILE",
            help="Write a file: TEXT and a newline, or FILE as it is. @@ is a literal @.",
        ),
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Remove a file or tree.")
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(metavar="NAME", help="The guest's name, with domain or without.")
    ] = None,
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(
            "--ssh-key", metavar="[USER:]FILE", help="Let the public keys in FILE log in (root)."
        ),
    ] = None,
    script: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Run FILE as root inside the guest."),
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Give the scripts a network.")] = False,
    partition: Annotated[
        int | None,
        typer.Option(min=0, max=128, help="Take this partition as the root; 0: the whole disk."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="raw, qcow2 or vhd; default: its name."),
    ] = None,
) -> None:
    """Change a finished image: all of it, or nothing when any part fails.

    Where the root is a plain ext4 this takes a second or two; otherwise, and for --script, a small
    virtual machine is started, and it is said why.

    Order: --mkdir, --copy, --write, --delete, --hostname, --ssh-key, --script; each in the order
    given. Without any of them a change that a crash interrupted is finished.
    """
    wanted: list[Change] = [
        *_parsed(options.parse_mkdir, mkdir),
        *_parsed(options.parse_copy, copy),
        *_parsed(options.parse_write, write),
        *_parsed(options.parse_remove, delete),
        *_parsed(options.parse_hostname, [hostname] if hostname is not None else None),
        *_parsed(options.parse_ssh_key, ssh_key),
        *_parsed(options.parse_script, script),
    ]
    image_format = named_format(image, format_)
    with workspace(Events([_show])) as space:
        done = guest_inject(
            image, image_format, wanted, workspace=space, partition=partition, network=network
        )
    for name, output in done.outputs:
        for line in output.splitlines():
            typer.echo(f"{name}: {line}")
    for note in done.notes:
        typer.echo(f"note: {note}")
    where = f" on {done.root}" if done.root else ""
    typer.echo(f"{image}: {len(done.changes)} change(s) made{where}")


def _parsed(parse: Callable[[str], T], values: list[str] | None) -> list[T]:
    return [parse(value) for value in values or []]


def _show(event: Event) -> None:
    if event.kind in ("change", "appliance"):
        print(event.fields["text"], file=sys.stderr, flush=True)
