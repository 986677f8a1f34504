"""``imagekit iso``: installer ISOs made to run by themselves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from imagekit.answers.context import target_of
from imagekit.answers.render import Kind
from imagekit.answers.validate import validate
from imagekit.errors import SpecError
from imagekit.installs.context import read_secrets
from imagekit.installs.remaster.remaster import remaster as remaster_iso
from imagekit.installs.stages.answers import render_answers
from imagekit.installs.stages.isosource import check_digest
from imagekit.pipeline.events import Events, PlainLines
from imagekit.pipeline.workspace import workspace
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.load import SpecFile, load_spec

app = typer.Typer(no_args_is_help=True, help="Installer ISOs made to run by themselves.")
KINDS = ("preseed", "kickstart", "autoinstall")


@app.command()
def remaster(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="The installer's ISO; only read.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="The ISO to write.")],
    spec: Annotated[
        Path | None, typer.Option(metavar="SPEC", help="Render the answers from this spec.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A finished answers file.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help=f"Of --answers: {', '.join(KINDS)}.")
    ] = None,
    release: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of --answers, for example RHEL9.")
    ] = None,
    append: Annotated[
        list[str] | None, typer.Option(metavar="ARG", help="One more kernel argument.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Refuse SRC unless it has this digest.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite DST if it exists.")] = False,
) -> None:
    """Put answers into an installer ISO and let its boot menu start by itself."""
    if (spec is None) == (answers is None):
        raise SpecError("name exactly one of --spec and --answers", where="iso remaster")
    if sha256:
        check_digest(src, sha256, str(src))
    if spec is not None:
        file = load_spec(spec)
        install = _install(file)
        text, warnings = render_answers(file, install, read_secrets(file, os.environ))
        chosen: Kind = install.answers
        release = release or install.release or file.spec.os.suite
    else:
        chosen, text, warnings = _own(cast(Path, answers), kind, release)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    name = target_of(chosen, release, "", "").name if chosen == "kickstart" else ""
    with workspace(Events([PlainLines(sys.stderr)])) as space:
        done = remaster_iso(
            src,
            dst,
            text,
            scratch=space.temporary("remaster"),
            kind=chosen,
            release=name,
            extra_args=append or [],
            overwrite=force,
        )
    typer.echo(f"{done.path}: {done.volume_id}, {done.kind}, changed {', '.join(done.changed)}")
    for menu, words in done.arguments.items():
        typer.echo(f"  {menu}: {words}")


@app.command()
def answers(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The guest's spec (YAML).")],
) -> None:
    """Print the checked answers file of a spec; it holds the accounts' password hashes."""
    file = load_spec(spec)
    secrets = read_secrets(file, os.environ)
    text, warnings = render_answers(file, _install(file), secrets)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    typer.echo(text, nl=False)


def _install(file: SpecFile) -> Iso | Netboot:
    install = file.spec.install
    if not isinstance(install, Iso | Netboot):
        raise SpecError(
            f"{install.method} does not use an installer", where=file.where("install", "method")
        )
    return install


def _own(path: Path, kind: str | None, release: str | None) -> tuple[Kind, str, list[str]]:
    if kind not in KINDS:
        raise SpecError("say what it is", where="--kind", hint=f"one of {', '.join(KINDS)}")
    chosen = cast(Kind, kind)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the answers cannot be read: {error}", where=str(path)) from None
    target = target_of(chosen, release, "", "")
    return (
        chosen,
        text,
        validate(
            chosen,
            text,
            target=target,
            where=str(path),
            lines=lambda: range(1, text.count("\n") + 2),
        ),
    )
