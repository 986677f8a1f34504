"""``imagekit build``, ``plan`` and ``schema``."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.cli.signing_options import GpgKeyOption, MinisignKeyOption, SshKeyOption, signer
from imagekit.host.signing import BUILD_NAMESPACE, sign_build
from imagekit.installs.build import build as build_spec
from imagekit.installs.build import outlook
from imagekit.installs.preflight import warnings
from imagekit.installs.start import start
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import workspace
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.lock import read_lock
from imagekit.spec.manifest import Manifest
from imagekit.spec.untrusted import check_untrusted, check_untrusted_lock

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The guest's spec (YAML).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field: --set disk.size=4GiB."),
]
UntrustedOption = Annotated[
    bool,
    typer.Option(
        "--untrusted",
        help="Refuse what makes the spec's writer root on this host: scripts, nics[].script, "
        "machine.raw, own elements, keyrings, and files of this host.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Events or result as JSON.")]


def build(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Build directory. Default: build/NAME.")
    ] = None,
    set_: SetOption = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every stage, with packages fetched anew.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files from elsewhere.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare the SHA-256 of every cached file; rebuild what is damaged."
        ),
    ] = False,
    locked: Annotated[
        Path | None,
        typer.Option("--locked", metavar="LOCK", help="Install exactly what this lock names."),
    ] = None,
    unique: Annotated[
        bool,
        typer.Option(
            "--unique",
            help="Random identifiers of disk, partitions and file systems, other ones with every "
            "build. Default: derived from spec and lock, so that a rebuild is the same.",
        ),
    ] = False,
    store_remote: Annotated[
        Path | None,
        typer.Option(
            "--store-remote",
            metavar="DIR",
            help="Share results with other machines in DIR: fetch what is there, publish what is "
            "made; none: share nothing. Default: IMAGEKIT_STORE_REMOTE, or store.remote in "
            "imagekit.toml.",
        ),
    ] = None,
    untrusted: UntrustedOption = False,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Boot it in every mode first; publish it only if it does."),
    ] = False,
    ssh_key: SshKeyOption = None,
    gpg_key: GpgKeyOption = None,
    minisign_key: MinisignKeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Build a guest image from a spec: disk images, kernel, initrd, configs and a manifest.

    SHA256SUMS names all of it; --sign, --gpg or --minisign put a detached signature of it
    beside it.
    """
    sign = signer(ssh_key, gpg_key, minisign_key, BUILD_NAMESPACE)
    file = _spec(spec, set_, untrusted)
    directory = out or Path("build") / file.spec.name
    lock = read_lock(locked) if locked else None
    if untrusted:
        check_untrusted_lock(lock)
    with console.events_for(json_output) as events:
        seed = secrets.token_hex(16) if unique else ""
        make: Callable[..., Manifest] = build_spec
        if prove:
            from imagekit.proof.publish import build_proven

            make = build_proven
        manifest = make(
            file,
            directory,
            events,
            fresh=no_cache,
            force=force,
            verify=verify,
            lock=lock,
            unique=seed,
            store_remote=store_remote,
        )
        if sign is not None:
            with workspace(events) as space:
                sign_build(directory, sign, space.temporary("sign"))
    if json_output:
        return
    stages = manifest.stages or ()
    cached = sum(stage.cached for stage in stages)
    seconds = sum(stage.seconds for stage in stages)
    total = len(stages)
    print(f"{file.spec.name}: {total} stages, {cached} cached, {seconds:.1f} s, in {directory}")
    for artefact in manifest.artefacts:
        if artefact.role != "log":
            label = artefact.format or artefact.mode or ""
            print(
                f"  {artefact.role:<15} {label:<6} {artefact.path}"
                f"  ({console.size(artefact.size_bytes)})"
            )
    for warning in warnings(file):
        typer.echo(f"warning: {warning}", err=True)


def plan(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Build directory. Default: build/NAME.")
    ] = None,
    set_: SetOption = None,
    untrusted: UntrustedOption = False,
    json_output: JsonOption = False,
) -> None:
    """Show the stages of a build, which results are stored, and why the others are not."""
    file = _spec(spec, set_, untrusted)
    context = start(file, out or Path("build") / file.spec.name, os.environ)
    stages = outlook(context, Store())
    for warning in warnings(file):
        typer.echo(f"warning: {warning}", err=True)
    if json_output:
        print(json.dumps([vars(stage) for stage in stages], indent=2))
        return
    for stage in stages:
        state = "cached" if stage.cached else "run"
        print(f"{stage.name:<10} {state:<7} {stage.key[:12]}  {stage.title} ({stage.why})")


def _spec(path: Path, overrides: list[str] | None, untrusted: bool) -> SpecFile:
    file = load_spec(path, overrides or [])
    if untrusted:
        check_untrusted(file)
    return file


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The reference of all fields, for people.")
    ] = False,
) -> None:
    """Print the JSON schema of a spec, for editors."""
    from imagekit.spec.model import json_schema
    from imagekit.spec.reference import markdown as reference

    if markdown:
        print(reference(), end="")
        return
    print(json.dumps(json_schema(), indent=2))
