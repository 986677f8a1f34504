"""``imagekit config``: a build's domain config in the words of a toolstack."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Annotated, cast

import typer

from imagekit.cli import upload
from imagekit.cli.toolstack_options import configured, glance_options
from imagekit.domain import bootpath
from imagekit.domain.facts import BuildFacts, facts_in
from imagekit.domain.model import MODES, DiskFormat, Domain, FirmwareKind, Mode
from imagekit.errors import ExistsError, SpecError
from imagekit.toolstacks import explain
from imagekit.toolstacks.libvirt import define as libvirt_define
from imagekit.toolstacks.output import Emitter, OutputFile
from imagekit.toolstacks.registry import EMITTERS, emitter_for
from imagekit.toolstacks.xm.emitter import XmEmitter

BOOTS = ("auto", "pygrub", "pvgrub", "direct", "firmware")


Build = Annotated[Path, typer.Argument(metavar="BUILD", help="A directory made by build.")]
Toolstack = Annotated[str, typer.Option("--toolstack", help=f"One of {', '.join(EMITTERS)}.")]
WantedMode = Annotated[
    str | None,
    typer.Option("--mode", metavar="pv|pvh|hvm", help="Default: the spec's first mode."),
]
WantedBoot = Annotated[str, typer.Option("--boot", metavar="|".join(BOOTS))]
Format = Annotated[
    str | None, typer.Option("--format", metavar="raw|qcow2|vhd", help="Default: raw.")
]
WantedFirmware = Annotated[
    str | None, typer.Option("--firmware", metavar="bios|uefi", help="For HVM.")
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
Define = Annotated[
    str | None, typer.Option("--define", metavar="URI", help="libvirt: define it there.")
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="The toolstack's own choices: opennebula driver, release, network, mac, datastore, "
        "files_datastore, context; glance target, handler, names, ami, auto_disk_config; "
        "quattor host, auto, cpu, ram, disk; xapi handlers.",
    ),
]
Import = Annotated[
    str | None, typer.Option("--import", metavar="URL", help="xapi, xva: import into this pool.")
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
Upload = Annotated[bool, typer.Option("--upload", help="glance: upload with openstacksdk.")]
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
    explain_lines: Explain = False,
    sxp: Sexpr = False,
    vnc_password_file: PasswordFile = None,
    define: Define = None,
    option: Options = None,
    import_: Import = None,
    xapi_user: XapiUser = "root",
    xapi_password_file: XapiPassword = None,
    cafile: CaFile = None,
    insecure: Insecure = False,
    sr: StorageRepository = None,
    network: Networks = None,
    upload_: Upload = False,
    cloud: Cloud = None,
    force: Force = False,
) -> None:
    """Print or write the config of a domU for a build."""
    emitter = configured(_emitter(toolstack, sxp), option or [])
    facts = load_facts(build)
    if vnc_password_file is not None:
        facts = _with_password(facts, vnc_password_file)
    domain = bootpath.domain_for(
        facts,
        mode=cast(Mode, _one_of(mode or next(iter(facts.modes), "pv"), MODES, "--mode")),
        boot=cast(bootpath.BootName, _one_of(boot, BOOTS, "--boot")),
        image_format=_format(image_format),
        firmware=_firmware(firmware),
        toolstack=toolstack,
    )
    if explain_lines:
        found = explain.rows(emitter.lines(domain, facts), domain, facts)
        sys.stdout.write(explain.table(found))
    elif define is not None:
        _define(emitter, domain, facts, define, force)
    elif import_ is not None:
        pool = upload.xapi_pool(
            import_,
            username=xapi_user,
            password_file=xapi_password_file,
            cafile=cafile,
            insecure=insecure,
        )
        made = upload.import_domain(toolstack, domain, facts, pool, sr=sr, networks=network or [])
        print("\n".join(made))
    elif upload_:
        for role, ident in upload.upload_images(
            domain, facts, glance_options(emitter), cloud=cloud
        ).items():
            print(f"{role} {ident}")
    elif output == "-":
        sys.stdout.write(emitter.text(domain, facts))
    else:
        for path in write_files(emitter.files(domain, facts), Path(output), force=force):
            print(path)
    for note in bootpath.notes(domain, toolstack):
        print(f"note: {note}", file=sys.stderr)


def _define(emitter: Emitter, domain: Domain, facts: BuildFacts, uri: str, force: bool) -> None:
    if emitter.name != "libvirt":
        raise SpecError(
            "only libvirt defines domains", where="--define", hint="--toolstack libvirt"
        )
    libvirt_define.define(emitter.text(domain, facts), uri, domain.name, force=force)
    print(f"{domain.name} is defined at {uri}", file=sys.stderr)


def load_facts(build: Path) -> BuildFacts:
    """The facts in ``build``'s manifest, with absolute paths; raises SpecError."""
    return facts_in(build)


def write_files(files: dict[str, OutputFile], directory: Path, *, force: bool) -> list[Path]:
    """Write ``files`` into ``directory``, each beside its place and then renamed; their paths.

    Raises ExistsError, with nothing written, when one exists and ``force`` is false.
    """
    for name in files:
        if name.startswith("/") or ".." in Path(name).parts:
            raise SpecError(f"{name!r} is not a name within the directory", where="-o")
        path = directory / name
        if not force and (path.is_symlink() or path.exists()):
            raise ExistsError("the file exists", where=str(path), hint="--force overwrites it")
    return [_write(directory / name, file) for name, file in files.items()]


def _write(path: Path, file: OutputFile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes it 0600, so that a secret is never readable for a moment.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            _fill(stream, file)
            os.fchmod(stream.fileno(), file.mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _fill(stream: IO[bytes], file: OutputFile) -> None:
    if isinstance(file.content, str):
        stream.write(file.content.encode())
    elif isinstance(file.content, bytes):
        stream.write(file.content)
    else:
        file.content(stream)


def _emitter(toolstack: str, sxp: bool) -> Emitter:
    if sxp and toolstack != "xm":
        raise SpecError("only xm has S-expressions", where="--sxp")
    return XmEmitter(sxp=True) if sxp else emitter_for(toolstack)


def _with_password(facts: BuildFacts, path: Path) -> BuildFacts:
    if facts.graphics is None:
        raise SpecError("the build's spec asks for no screen", where="--vnc-password-file")
    try:
        with path.open("rb") as stream:
            first = stream.read(4096).split(b"\n", 1)[0].rstrip(b"\r")
        password = first.decode()
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError:
        raise SpecError("the password is not UTF-8 text", where=str(path)) from None
    return replace(facts, graphics=replace(facts.graphics, password=password))


def _format(value: str | None) -> DiskFormat | None:
    if value is None:
        return None
    return cast(DiskFormat, _one_of(value, ("raw", "qcow2", "vhd"), "--format"))


def _firmware(value: str | None) -> FirmwareKind | None:
    if value is None:
        return None
    return cast(FirmwareKind, _one_of(value, ("bios", "uefi"), "--firmware"))


def _one_of(value: str, allowed: tuple[str, ...], option: str) -> str:
    if value not in allowed:
        raise SpecError(
            f"{value!r} is not known", where=option, hint=f"one of {', '.join(allowed)}"
        )
    return value
