"""``imagekit reinstall``: a machine back from one file, without a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.cli.signing_options import PassphraseOption, TrustOption
from imagekit.pipeline.workspace import workspace
from imagekit.recovery.reinstall import emit_script, steps
from imagekit.recovery.reinstall import reinstall as carry_out
from imagekit.recovery.sealing import Unlock
from imagekit.recovery.target import Wish
from imagekit.recovery.unpacked import open_bundle

Json = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def reinstall(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory of the build.")
    ] = None,
    device: Annotated[
        Path | None, typer.Option("--device", metavar="DEV", help="Write the disk there too.")
    ] = None,
    vg: Annotated[
        str | None,
        typer.Option("--vg", metavar="VG", help="Write it to a new logical volume."),
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
    trust: TrustOption = None,
    insecure_unsigned: Annotated[
        bool,
        typer.Option(
            "--insecure-unsigned",
            help="Take anybody's bundle instead: whoever made it is root on this host.",
        ),
    ] = False,
    passphrase: PassphraseOption = None,
    identity: Annotated[
        Path | None,
        typer.Option("--age-identity", metavar="FILE", help="What opens a bundle made with --age."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    script: Annotated[
        bool, typer.Option("--emit-script", help="Print a shell script for a rescue system.")
    ] = False,
    start: Annotated[bool, typer.Option("--start", help="Start the domU (xl).")] = False,
    json_output: Json = False,
) -> None:
    """Restore a machine from a bundle, without a network, and prove that the disk is the same.

    A bundle is taken from those whose keys --trust names, or, by --insecure-unsigned, from anybody.
    """
    with console.events_for(False) as events, workspace(events) as space:
        keys = None if script or dry_run else Unlock(passphrase, identity)
        unpacked = open_bundle(
            file, trust, workspace=space, keys=keys, insecure_unsigned=insecure_unsigned
        )
        if script:
            print(emit_script(unpacked), end="")
            return
        directory = out or Path("build") / unpacked.name
        wish = Wish(directory, device, vg, force, overwrite, start, unpack)
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
