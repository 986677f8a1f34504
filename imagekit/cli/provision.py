"""``imagekit provision`` and ``imagekit destroy``: making and removing guests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import console
from imagekit.domain.model import MODES, Mode
from imagekit.errors import ImagekitError, SpecError
from imagekit.pipeline.workspace import workspace
from imagekit.provision.cautions import cautions
from imagekit.provision.golden import open_golden, sweep
from imagekit.provision.journal import record_of, recorded, state_root
from imagekit.provision.provision import Outcome, ProvisionOptions
from imagekit.provision.provision import destroy as undo_guest
from imagekit.provision.provision import provision as make_guests
from imagekit.provision.request import Clone, GuestRequest, make_request, read_guests
from imagekit.spec.nearest import did_you_mean

XENDOMAINS = Path("/etc/xen/auto")
TOOLSTACKS = ("xl", "xm", "libvirt")
Json = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def provision(
    build: Annotated[
        Path, typer.Option("--from", metavar="BUILD", help="The golden image's build directory.")
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    guests: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make all guests of this YAML file.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Each guest gets DIR/NAME.")
    ] = None,
    device: Annotated[
        Path | None, typer.Option(metavar="DEV", help="Write the disk to this block device.")
    ] = None,
    vg: Annotated[
        str | None, typer.Option(metavar="VG", help="A new logical volume VG/NAME-disk.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="DEV", help="Overwrite what this device holds.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="A raw disk of its own, not an overlay.")
    ] = False,
    chain: Annotated[
        bool, typer.Option("--chain", help="A differencing VHD on the golden one (xm, blktap2).")
    ] = False,
    memory: Annotated[int | None, typer.Option(metavar="MIB")] = None,
    vcpus: Annotated[int | None, typer.Option()] = None,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="Grow the disk: 20GiB.")] = None,
    hostname: Annotated[str | None, typer.Option(help="Default: NAME.")] = None,
    bridge: Annotated[str | None, typer.Option()] = None,
    mac: Annotated[str | None, typer.Option()] = None,
    ip: Annotated[list[str] | None, typer.Option(metavar="ADDRESS/LEN")] = None,
    gateway: Annotated[list[str] | None, typer.Option(metavar="ADDRESS")] = None,
    dns: Annotated[list[str] | None, typer.Option(metavar="ADDRESS")] = None,
    ssh_key: Annotated[
        list[str] | None, typer.Option("--ssh-key", metavar="[USER:]FILE", help="Public keys.")
    ] = None,
    toolstack: Annotated[str, typer.Option(help=f"One of {', '.join(TOOLSTACKS)}.")] = "xl",
    mode: Annotated[str | None, typer.Option(metavar="pv|pvh|hvm")] = None,
    seed: Annotated[
        bool, typer.Option("--seed", help="Identity by a NoCloud disk, for cloud-init.")
    ] = False,
    start: Annotated[bool, typer.Option("--start", help="Start the domU.")] = False,
    autostart: Annotated[
        bool, typer.Option("--autostart", help=f"Link the config into {XENDOMAINS}.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Make guests from a golden image: clone, grow, identity, config.

    Each is created completely or not at all.
    """
    given: dict[str, object] = {
        **{"name": name, "memory": memory, "vcpus": vcpus, "size": size, "hostname": hostname},
        **{"bridge": bridge, "mac": mac, "ip": ip, "gateway": gateway, "dns": dns},
        **{"ssh_keys": ssh_key, "device": device, "vg": vg},
    }
    requests = _requests(guests, {k: v for k, v in given.items() if v})
    if toolstack not in TOOLSTACKS:
        raise SpecError(
            f"guests for {toolstack!r} are not made here{did_you_mean(toolstack, TOOLSTACKS)}",
            where="--toolstack",
            hint=f"one of {', '.join(TOOLSTACKS)}; imagekit config writes the configs of others",
        )
    if autostart and not XENDOMAINS.is_dir():
        raise SpecError(f"{XENDOMAINS} is not there", where="--autostart")
    if copy and chain:
        raise SpecError("--copy and --chain are two kinds of clones", where="--chain")
    clone: Clone = "copy" if copy else "chain" if chain else "overlay"
    options = ProvisionOptions(
        directory or state_root() / "instances",
        clone,
        toolstack,
        _mode(mode),
        seed,
        start,
        XENDOMAINS if autostart else None,
        force,
    )
    golden = open_golden(build, ("vhd",)) if chain else open_golden(build)
    for caution in cautions(requests, golden, seed=seed):
        typer.echo(f"warning: {caution}", err=True)
    with console.events_for(False) as events, workspace(events) as space:
        outcomes = make_guests(requests, golden, options, workspace=space)
    _report(outcomes, json_output)


def _mode(name: str | None) -> Mode | None:
    if name is None:
        return None
    for mode in MODES:
        if mode == name:
            return mode
    meant = did_you_mean(name, MODES)
    raise SpecError(f"{name!r} is not a mode{meant}", where="--mode", hint="one of pv, pvh, hvm")


def _requests(guests: Path | None, given: dict[str, object]) -> list[GuestRequest]:
    if guests is None:
        if "name" not in given:
            raise SpecError("name the guest, or a file of guests with --guests", where="NAME")
        return [make_request(given)]
    if given:
        raise SpecError(
            f"--guests does not go with {', '.join(sorted(given))}",
            where="--guests",
            hint="write it into the file, under defaults or the guest",
        )
    return read_guests(guests)


def _report(outcomes: list[Outcome], json_output: bool) -> None:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if json_output:
        rows = [
            {
                "name": o.name,
                "files": o.files,
                "seconds": o.seconds,
                "error": o.error.what if o.error else None,
            }
            for o in outcomes
        ]
        print(json.dumps(rows, indent=2))
    else:
        for outcome in outcomes:
            if outcome.error is None:
                print(f"{outcome.name}: {outcome.files['config']}  ({outcome.seconds:.1f} s)")
    if len(outcomes) == 1 and failed and failed[0].error is not None:
        raise failed[0].error
    if failed:
        lines = "\n".join(f"{o.name}: {o.error}" for o in failed)
        raise ImagekitError(f"{len(failed)} of {len(outcomes)} guests were not made\n{lines}")


def destroy(
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the guests there are.")] = False,
    json_output: Json = False,
) -> None:
    """Remove a guest: exactly what its provision made, its disk included."""
    for swept in sweep():
        typer.echo(f"undid what an interrupted provision left of {swept}", err=True)
        if swept == name:
            return
    if list_ or name is None:
        guests = recorded(lambda error: typer.echo(f"warning: {error}", err=True))
        if json_output:
            print(json.dumps({n: record.to_json() for n, record in guests.items()}, indent=2))
            return
        for found, guest in guests.items():
            print(f"{found}  {guest.files.get('config', '')}")
        return
    record = record_of(name)
    if record is not None and not yes:
        files = ", ".join(record.files.values())
        typer.confirm(f"Remove {name} and its data ({files})?", abort=True)
    undo_guest(name)
    print(f"{name} is gone")
