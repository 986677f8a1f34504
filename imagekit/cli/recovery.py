"""``imagekit bundle`` and ``imagekit reinstall``: into one file, and back without a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.cli.build import SetOption
from imagekit.cli.signing_options import GpgKeyOption, SshKeyOption, signer
from imagekit.errors import SpecError
from imagekit.pipeline.workspace import workspace
from imagekit.recovery.bundle import make_bundle, open_bundle, verify_bundle
from imagekit.recovery.reinstall import Wish, emit_script, steps
from imagekit.recovery.reinstall import reinstall as carry_out
from imagekit.recovery.signing import NAMESPACE
from imagekit.spec.load import load_spec

Trust = Annotated[
    Path | None,
    typer.Option("--trust", metavar="FILE", help="Public ssh keys, or an OpenPGP keyring."),
]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def bundle(
    what: Annotated[str, typer.Argument(metavar="BUILD|verify", help="A build directory.")],
    file: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="With verify.")] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="SPEC", help="What BUILD was made from.")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: NAME.bundle.")
    ] = None,
    image: Annotated[
        bool, typer.Option("--image", help="Put the finished disk in too, for rescue systems.")
    ] = False,
    ssh_key: SshKeyOption = None,
    gpg_key: GpgKeyOption = None,
    trust: Trust = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the bundle.")] = False,
) -> None:
    """Pack all that gives a build back offline into one file; or verify such a file.

    Secrets are never in it: reinstalling needs them again.
    """
    with console.events_for(False) as events, workspace(events) as space:
        if what == "verify" and file is not None:
            checked = verify_bundle(file, trust, space.temporary("verify"))
            total = sum(member.size for member in checked.members)
            signed = "signature good" if trust else "signature not checked (--trust)"
            state = signed if checked.signature else "not signed"
            print(f"{file}: {len(checked.members)} members, {console.size(total)}, whole; {state}")
            return
        if spec is None or file is not None:
            raise SpecError(
                "name the spec the build was made from",
                where="--spec",
                hint="imagekit bundle BUILD --spec SPEC, or imagekit bundle verify BUNDLE",
            )
        loaded = load_spec(spec, set_ or [])
        target = out or Path(f"{loaded.spec.name}.bundle")
        members = make_bundle(
            Path(what),
            loaded,
            target,
            workspace=space,
            sign=signer(ssh_key, gpg_key, NAMESPACE),
            image=image,
            overwrite=force,
        )
    print(f"{target}: {len(members)} members, {console.size(target.stat().st_size)}")


def reinstall(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory of the build.")
    ] = None,
    device: Annotated[
        Path | None, typer.Option("--device", metavar="DEV", help="Write the disk there too.")
    ] = None,
    force: Annotated[
        str | None, typer.Option("--force", metavar="DEV", help="Overwrite what this device holds.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite files in the directory.")
    ] = False,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Take the finished disk, do not rebuild.")
    ] = False,
    trust: Trust = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    script: Annotated[
        bool, typer.Option("--emit-script", help="Print a shell script for a rescue system.")
    ] = False,
    start: Annotated[bool, typer.Option("--start", help="Start the domU (xl).")] = False,
    json_output: Json = False,
) -> None:
    """Give the machine of a bundle back, without a network, and prove that the disk is the same."""
    with console.events_for(False) as events, workspace(events) as space:
        unpacked = open_bundle(file, trust, workspace=space)
        if script:
            print(emit_script(unpacked), end="")
            return
        directory = out or Path("build") / unpacked.spec.spec.name
        wish = Wish(directory, device, force, overwrite, start, unpack)
        if dry_run:
            for line in steps(unpacked, wish):
                print(line)
            return
        report = carry_out(unpacked, file, wish, events, workspace=space)
    if json_output:
        print(json.dumps(asdict(report), indent=2))
        return
    same = "the original, byte by byte" if report.identical else "a new disk of the same packages"
    print(f"{report.name}: {same}, in {report.directory} ({report.seconds:.1f} s)")
    for note in report.notes:
        print(f"note: {note}")
