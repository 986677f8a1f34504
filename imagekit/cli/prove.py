"""``imagekit prove``: start an image under a real Xen, or in plain QEMU, and see it come up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.errors import SpecError
from imagekit.proof.boots import BOOTS, Wanted
from imagekit.proof.guestconfig import TOOLSTACKS
from imagekit.proof.outcome import require_up
from imagekit.proof.prove import ProofOptions, prove_image
from imagekit.proof.prove import prove as prove_directory
from imagekit.proof.report import table
from imagekit.proof.xens import XENS, named


def prove(
    build: Annotated[
        Path | None, typer.Argument(metavar="[BUILD]", help="A build directory.")
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option("--mode", metavar="pv|pvh|hvm", help="Only this mode; may be repeated."),
    ] = None,
    boot: Annotated[
        list[str] | None,
        typer.Option(
            "--boot",
            metavar="|".join(BOOTS),
            help="Only this boot path, with a config made for it if need be; may be repeated.",
        ),
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="raw|qcow2|vhd", help="This image; may be repeated."),
    ] = None,
    xen: Annotated[
        list[str] | None,
        typer.Option(
            "--xen",
            metavar="|".join(XENS),
            help="Under this Xen; may be repeated. Default: what the spec names, else 4.17.",
        ),
    ] = None,
    toolstack: Annotated[
        list[str] | None,
        typer.Option(
            "--toolstack",
            metavar="|".join(TOOLSTACKS),
            help="By xl create, or by libvirtd and virsh; may be repeated. Default: xl.",
        ),
    ] = None,
    under: Annotated[
        str,
        typer.Option("--under", metavar="xen|qemu", help="A real Xen in QEMU, or QEMU alone."),
    ] = "xen",
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="For each guest."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Guests at a time. Default: one on each processor."
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="FILE", help="With --config: used as the domain's first disk."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Anybody's xl config, or domain XML."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="With --config: where the report goes. Default: here."),
    ] = None,
    netboot: Annotated[
        Path | None,
        typer.Option(
            "--netboot",
            metavar="DIR",
            help="A tree of `netboot publish --http http://198.18.0.1`, served to the guests.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect",
            metavar="REGEX",
            help='Console regex that means "up" (default: login prompt).',
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="Fail guests whose console shows faults: a segfault, an Oops, a failed unit.",
        ),
    ] = None,
    fresh_lab: Annotated[
        bool, typer.Option("--fresh-lab", help="Build the dom0 again, with packages fetched anew.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the log of Xen and dom0.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Events and report as JSON.")] = False,
) -> None:
    """Boot every guest of a build as its configs say and report what came up; exit 11 if not all.

    Exit 14 if none failed and the host was too busy to judge some. The report is BUILD/proof.json,
    consoles and logs are in BUILD/proof/.
    """
    if under not in ("xen", "qemu"):
        raise SpecError(f"{under!r} is not known", where="--under", hint="xen or qemu")
    if (build is None) == (config is None):
        raise SpecError("name a build directory, or --image and --config", where="imagekit prove")
    if image is not None and config is None:
        raise SpecError("--image needs the config it is started with", where="--config")
    if netboot is not None and under != "xen":
        raise SpecError("--netboot needs the lab's own network", where="--under")
    if xen and under != "xen":
        raise SpecError("--xen needs a Xen to boot under", where="--under")
    if toolstack and under != "xen":
        raise SpecError("--toolstack needs a Xen to boot under", where="--under")
    options = ProofOptions(
        wanted=Wanted.checked(mode or [], boot or [], format_ or [], toolstack or []),
        under=under,
        timeout=timeout,
        keep=keep,
        fresh=fresh_lab,
        jobs=jobs,
        netboot=netboot,
        expect=expect,
        strict=strict,
        xens=named(xen, "--xen") if xen else (),
    )
    with console.events_for(json_output) as events:
        if build is not None:
            report = prove_directory(build, events, options)
        else:
            assert config is not None  # noqa: S101 - checked above
            target = out or Path()
            target.mkdir(parents=True, exist_ok=True)
            report = prove_image(config, image, target, events, options)
    print(json.dumps({"event": "proof", **report.to_json()}) if json_output else table(report))
    require_up(report)
