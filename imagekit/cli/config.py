"""``imagekit config``: a build's domain config in the words of a toolstack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imagekit.domain.facts import BuildFacts, facts_in
from imagekit.domain.model import MODES
from imagekit.pipeline.build_directory import require_own_build
from imagekit.spec.toolstack_names import toolstack_names
from imagekit.toolstacks.declaration import Define, Delivered, Delivery, Import, Upload
from imagekit.toolstacks.options import Choice, choices
from imagekit.toolstacks.output import write_files
from imagekit.toolstacks.overview import option_keys
from imagekit.toolstacks.wording import BOOTS, FIRMWARE, FORMATS, Wish, able_to, deliver, worded

Build = Annotated[Path, typer.Argument(metavar="BUILD", help="A directory made by build.")]
Toolstack = Annotated[
    str, typer.Option("--toolstack", help=f"One of {', '.join(toolstack_names())}.")
]
WantedMode = Annotated[
    str | None,
    typer.Option("--mode", metavar="|".join(MODES), help="Default: the spec's first mode."),
]
WantedBoot = Annotated[str, typer.Option("--boot", metavar="|".join(BOOTS))]
Format = Annotated[
    str | None, typer.Option("--format", metavar="|".join(FORMATS), help="Default: raw.")
]
WantedFirmware = Annotated[
    str | None, typer.Option("--firmware", metavar="|".join(FIRMWARE), help="For HVM.")
]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="DIR|-", help="Write files; - is one text.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Say for each line why it is there.")]
Sexpr = Annotated[bool, typer.Option("--sxp", help="xm: the S-expression form.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--vnc-password-file", help="A file whose first line is the VNC password."),
]
DefineAt = Annotated[
    str | None,
    typer.Option(
        "--define", metavar="URI", help=f"{', '.join(able_to('--define'))}: define it there."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help=f"The toolstack's own choices: {option_keys()}.",
    ),
]
ImportInto = Annotated[
    str | None,
    typer.Option(
        "--import", metavar="URL", help=f"{', '.join(able_to('--import'))}: import into this pool."
    ),
]
XapiUser = Annotated[str, typer.Option("--xapi-user", help="For --import.")]
XapiPassword = Annotated[
    Path | None,
    typer.Option("--xapi-password-file", help="Its first line; or set IMAGEKIT_XAPI_PASSWORD."),
]
CaFile = Annotated[Path | None, typer.Option("--cafile", help="For --import: whom to trust.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="For --import: do not check TLS.")]
StorageRepository = Annotated[str | None, typer.Option("--sr", help="For --import.")]
Networks = Annotated[
    list[str] | None, typer.Option("--network", metavar="BRIDGE=NET", help="For --import.")
]
UploadImages = Annotated[
    bool,
    typer.Option("--upload", help=f"{', '.join(able_to('--upload'))}: upload with openstacksdk."),
]
Cloud = Annotated[
    str | None, typer.Option("--cloud", help="For --upload: which cloud of clouds.yaml.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files, replace a defined domain.")]


def config(
    build: Build,
    toolstack: Toolstack = "xl",
    mode: WantedMode = None,
    boot: WantedBoot = "auto",
    image_format: Format = None,
    firmware: WantedFirmware = None,
    output: Output = "-",
    explain: Explain = False,
    sxp: Sexpr = False,
    vnc_password_file: PasswordFile = None,
    define: DefineAt = None,
    option: Options = None,
    import_: ImportInto = None,
    xapi_user: XapiUser = "root",
    xapi_password_file: XapiPassword = None,
    cafile: CaFile = None,
    insecure: Insecure = False,
    sr: StorageRepository = None,
    network: Networks = None,
    upload: UploadImages = False,
    cloud: Cloud = None,
    force: Force = False,
) -> None:
    """Print or write the config of a domU for a build."""
    wish = Wish(
        toolstack=toolstack,
        mode=mode,
        boot=boot,
        image_format=image_format,
        firmware=firmware,
        choices=choices(option or []) + ((Choice("sxp", "true", "--sxp"),) if sxp else ()),
        vnc_password_file=vnc_password_file,
    )
    delivery: Delivery | None = None
    if define is not None:
        delivery = Define(define, force)
    elif import_ is not None:
        delivery = Import(
            import_, xapi_user, xapi_password_file, cafile, insecure, sr, tuple(network or ())
        )
    elif upload:
        delivery = Upload(cloud)
    guest = worded(load_facts(build), wish)
    if explain:
        sys.stdout.write(guest.explained())
    elif delivery is not None:
        _tell(deliver(guest, delivery))
    elif output == "-":
        sys.stdout.write(guest.text())
    else:
        for path in write_files(guest.files(), Path(output), force=force):
            print(path)
    for note in guest.notes():
        print(f"note: {note}", file=sys.stderr)


def _tell(delivered: Delivered) -> None:
    for made in delivered.made:
        print(made)
    if delivered.said:
        print(delivered.said, file=sys.stderr)


def load_facts(build: Path) -> BuildFacts:
    """The facts in ``build``'s manifest, with absolute paths; raises SpecError, and HostError for a
    build that others may write to."""
    require_own_build(build)
    return facts_in(build)
