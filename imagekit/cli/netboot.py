"""``imagekit netboot``: publish guests for netbooting, flip them, serve the tree."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, cast

import typer

from imagekit.errors import SpecError
from imagekit.netboot import publish as publishing
from imagekit.netboot import request, serve_config, tree
from imagekit.netboot import serve as serving
from imagekit.netboot.netguest import Mode

app = typer.Typer(help="Install guests over the network.", no_args_is_help=True)
Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="The published tree.")]


@app.command()
def publish(
    root: Root,
    specs: Annotated[
        list[Path] | None, typer.Argument(metavar="[SPEC...]", help="Guests to publish.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--guests", metavar="FILE", help="Publish the guests of this database."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Only this host's, of --guests.")] = "",
    tftp_prefix: Annotated[
        str, typer.Option("--tftp-prefix", help="Prefix for requested TFTP names.")
    ] = "",
    http: Annotated[str, typer.Option("--http", metavar="URL", help="The HTTP server's URL.")] = "",
    prune: Annotated[
        bool, typer.Option("--prune", help="Take every other guest out of the tree.")
    ] = False,
) -> None:
    """Write boot configs, kernels, initrds and answers for guests."""
    site = publishing.Site(root.absolute(), tftp_prefix, http)
    wanted = [(path, request.load(path)) for path in specs or []]
    if database is not None:
        wanted += request.of_database(database, host)
    if not wanted:
        raise SpecError("nothing to publish", hint="give specs, or --guests FILE")
    with tempfile.TemporaryDirectory(prefix="imagekit-netboot-") as scratch:
        guests = []
        for number, (path, asked) in enumerate(wanted):
            workdir = Path(scratch) / str(number)
            workdir.mkdir()
            guests.append(request.prepare(asked, path.parent, workdir))
        _report(publishing.publish(site, guests, prune=prune))


@app.command()
def flip(
    name: str,
    mode: Annotated[str, typer.Argument(metavar="local|install")],
    root: Root,
) -> None:
    """Let a guest boot its own disk from now on, or install itself again."""
    publishing.flip(root.absolute(), name, cast(Mode, mode))
    typer.echo(f"{name}: {mode}")


@app.command()
def serve(
    root: Root,
    interface: Annotated[str, typer.Option("--interface", help="Where the guests' bridge is.")],
    dhcp: Annotated[str, typer.Option("--dhcp", metavar="full|proxy|none")] = "proxy",
    addresses: Annotated[str, typer.Option("--range", metavar="FIRST-LAST")] = "",
    router: Annotated[str, typer.Option("--router", metavar="ADDRESS")] = "",
    dns: Annotated[str, typer.Option("--dns", metavar="ADDRESS")] = "",
    port: Annotated[int, typer.Option("--http-port", help="Port of the HTTP server.")] = 8080,
    emit: Annotated[
        str,
        typer.Option(
            "--print", metavar="dnsmasq|dhcpd|unit", help="Print a config instead of serving."
        ),
    ] = "",
) -> None:
    """Serve the tree in the foreground by DHCP, TFTP and HTTP."""
    if dhcp not in ("full", "proxy", "none"):
        raise SpecError(f"{dhcp!r} must be full, proxy or none")
    first, _, last = addresses.partition("-")
    address, network = serving.interface_network(interface)
    service = serve_config.Service(
        root=root.absolute(),
        interface=interface,
        address=address,
        network=network,
        dhcp=cast(serve_config.DhcpMode, dhcp),
        first=first.strip(),
        last=last.strip(),
        router=router,
        dns=dns,
        http_port=port,
    )
    if emit:
        typer.echo(_emitted(emit, service), nl=False)
        return
    serving.run(service, lambda line: print(line, file=sys.stderr, flush=True))


def _emitted(what: str, service: serve_config.Service) -> str:
    state = tree.load(service.root)
    if what == "dnsmasq":
        hosts = service.root / "dnsmasq.hosts"
        head = "".join(f"# {line}\n" for line in serve_config.dnsmasq_hosts(state).splitlines())
        return f"# {hosts} shall hold:\n{head}" + serve_config.dnsmasq_config(service, hosts)
    if what == "dhcpd":
        return serve_config.dhcpd_config(service, state)
    if what == "unit":
        program = Path(shutil.which("imagekit") or "/usr/bin/imagekit")
        words = [
            *("netboot", "serve", f"--root={service.root}", f"--interface={service.interface}"),
            *(f"--dhcp={service.dhcp}", f"--http-port={service.http_port}"),
        ]
        for option, value in (("router", service.router), ("dns", service.dns)):
            words += [f"--{option}={value}"] if value else []
        if service.first:
            words.append(f"--range={service.first}-{service.last}")
        return serve_config.systemd_unit(program, words, service)
    raise SpecError(f"{what!r} cannot be printed", hint="dnsmasq, dhcpd and unit can")


def _report(changes: tree.Changes) -> None:
    for name in changes.written:
        typer.echo(f"wrote {name}")
    for name in changes.removed:
        typer.echo(f"removed {name}")
    for name in changes.kept:
        typer.echo(f"kept {name}: it was changed by somebody else", err=True)
    if not (changes.written or changes.removed):
        typer.echo("nothing to change")
