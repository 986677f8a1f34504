"""``imagekit bundle`` and ``imagekit reinstall``: into one file, and back without a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.cli.build import SetOption
from imagekit.cli.signing_options import GpgKeyOption, MinisignKeyOption, SshKeyOption, signer
from imagekit.errors import SpecError
from imagekit.host.signing import NAMESPACE
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.provision.journal import recorded
from imagekit.recovery.bundle import make_bundle
from imagekit.recovery.guestbundle import make_guest_bundle
from imagekit.recovery.reinstall import emit_script, steps
from imagekit.recovery.reinstall import reinstall as carry_out
from imagekit.recovery.sealing import Seal, Unlock
from imagekit.recovery.target import Wish
from imagekit.recovery.unpacked import open_bundle, verify_bundle
from imagekit.spec.load import load_spec

Trust = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="Public ssh keys, an OpenPGP keyring, or a minisign public key.",
    ),
]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Encrypt or decrypt with its first line."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def bundle(
    what: Annotated[
        str,
        typer.Argument(metavar="BUILD|GUEST|verify", help="A build directory, or a guest's name."),
    ],
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
    encrypt_to: Annotated[
        list[str] | None,
        typer.Option("--encrypt-to", metavar="KEYID", help="Put secrets in, for this OpenPGP key."),
    ] = None,
    age: Annotated[
        list[str] | None,
        typer.Option(
            "--age",
            metavar="RECIPIENT|FILE",
            help="The same for an age recipient, an ssh public key, or a file of these.",
        ),
    ] = None,
    passphrase: Passphrase = None,
    ssh_key: SshKeyOption = None,
    gpg_key: GpgKeyOption = None,
    minisign_key: MinisignKeyOption = None,
    trust: Trust = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the bundle.")] = False,
) -> None:
    """Pack everything needed to restore a build or guest into one file; or verify such a file.

    Secrets are left out; with --encrypt-to, --age or --passphrase-file they are put in, encrypted,
    and so is the disk.
    """
    sign = signer(ssh_key, gpg_key, minisign_key, NAMESPACE)
    wanted = bool(encrypt_to or age or passphrase)
    how = Seal(tuple(encrypt_to or ()), passphrase, tuple(age or ())) if wanted else None
    with console.events_for(False) as events, workspace(events) as space:
        if what == "verify" and file is not None:
            _verify(file, trust, space)
            return
        if file is not None:
            raise SpecError("name one thing to bundle", where=str(file))
        if spec is None:
            _require_guest(what)
            target = out or Path(f"{what}.bundle")
            members = make_guest_bundle(
                what, target, workspace=space, sign=sign, how=how, overwrite=force
            )
        else:
            loaded = load_spec(spec, set_ or [])
            target = out or Path(f"{loaded.spec.name}.bundle")
            members = make_bundle(
                Path(what),
                loaded,
                target,
                workspace=space,
                sign=sign,
                image=image,
                how=how,
                overwrite=force,
            )
    print(f"{target}: {len(members)} members, {console.size(target.stat().st_size)}")


def _require_guest(what: str) -> None:
    if Path(what).is_dir():
        raise SpecError(
            "name the spec the build was made from",
            where="--spec",
            hint="imagekit bundle BUILD --spec SPEC, or imagekit bundle verify BUNDLE",
        )
    if what not in recorded():
        raise SpecError(
            f"there is no build and no guest {what}", hint="imagekit destroy --list shows guests"
        )


def _verify(file: Path, trust: Path | None, space: Workspace) -> None:
    checked = verify_bundle(file, trust, space.temporary("verify"))
    total = sum(member.size for member in checked.members)
    signed = "signature good" if trust else "signature not checked (--trust)"
    state = signed if checked.signature else "not signed"
    print(f"{file}: {len(checked.members)} members, {console.size(total)}, whole; {state}")


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
    trust: Trust = None,
    passphrase: Passphrase = None,
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
    """Restore a machine from a bundle, without a network, and prove that the disk is the same."""
    with console.events_for(False) as events, workspace(events) as space:
        keys = None if script or dry_run else Unlock(passphrase, identity)
        unpacked = open_bundle(file, trust, workspace=space, keys=keys)
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
