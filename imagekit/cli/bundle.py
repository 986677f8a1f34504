"""``imagekit bundle``: all that brings a machine back, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imagekit.cli import console
from imagekit.cli.build import SetOption
from imagekit.cli.signing_options import (
    GpgKeyOption,
    MinisignKeyOption,
    PassphraseOption,
    SshKeyOption,
    TrustOption,
    signer,
)
from imagekit.errors import SpecError
from imagekit.host.signing import NAMESPACE
from imagekit.pipeline.workspace import workspace
from imagekit.provision.journal import record_of
from imagekit.recovery.bundle import make_bundle
from imagekit.recovery.guestbundle import make_guest_bundle
from imagekit.recovery.sealing import Seal
from imagekit.recovery.unpacked import verify_bundle
from imagekit.spec.load import load_spec


class CreateByDefault(TyperGroup):
    """``imagekit bundle BUILD`` is ``imagekit bundle create BUILD``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``create`` before arguments that begin with no command."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["create", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=CreateByDefault,
    help="Everything that brings a build or a guest back, in one file.",
    no_args_is_help=True,
)


@app.command()
def create(
    what: Annotated[
        str,
        typer.Argument(metavar="BUILD|GUEST", help="A build directory, or a guest's name."),
    ],
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
    passphrase: PassphraseOption = None,
    ssh_key: SshKeyOption = None,
    gpg_key: GpgKeyOption = None,
    minisign_key: MinisignKeyOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the bundle.")] = False,
) -> None:
    """Pack everything needed to restore a build or guest into one file.

    Secrets are left out; with --encrypt-to, --age or --passphrase-file they are put in, encrypted,
    and so is the disk.
    """
    sign = signer(ssh_key, gpg_key, minisign_key, NAMESPACE)
    wanted = bool(encrypt_to or age or passphrase)
    how = Seal(tuple(encrypt_to or ()), passphrase, tuple(age or ())) if wanted else None
    with console.events_for(False) as events, workspace(events) as space:
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
            hint="imagekit bundle create BUILD --spec SPEC, or imagekit bundle verify BUNDLE",
        )
    if record_of(what) is None:
        raise SpecError(
            f"there is no build and no guest {what}", hint="imagekit destroy --list shows guests"
        )


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE")], trust: TrustOption = None
) -> None:
    """Look at every byte of a bundle, and at its signature."""
    with console.events_for(False) as events, workspace(events) as space:
        checked = verify_bundle(file, trust, space.temporary("verify"))
    total = sum(member.size for member in checked.members)
    signed = "signature good" if trust else "signature not checked (--trust)"
    state = signed if checked.signature else "not signed"
    print(f"{file}: {len(checked.members)} members, {console.size(total)}, whole; {state}")
