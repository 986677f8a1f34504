"""The ``imagekit`` program: commands, and the one place where errors are printed."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Annotated, Any

import typer
from annotated_types import Ge, Le
from typer.core import TyperGroup

from imagekit import __version__
from imagekit.cli.paths import straighten
from imagekit.errors import HostError, ImagekitError, Interrupted, printable

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RELEASED = "imagekit: interrupted; everything was released"

# Command name to module and attribute. Modules are imported only when their command is used, so
# that "imagekit build" of an unchanged spec need not load libguestfs.
COMMANDS: dict[str, tuple[str, str]] = {
    "schema": ("imagekit.cli.build", "schema"),
    "plan": ("imagekit.cli.build", "plan"),
    "build": ("imagekit.cli.build", "build"),
    "verify-reproducible": ("imagekit.cli.lock", "verify_reproducible"),
    "lock": ("imagekit.cli.lock", "app"),
    "kernel": ("imagekit.cli.kernel", "kernel"),
    "convert": ("imagekit.cli.convert", "convert"),
    "inject": ("imagekit.cli.inject", "inject"),
    "config": ("imagekit.cli.config", "config"),
    "provision": ("imagekit.cli.provision", "provision"),
    "destroy": ("imagekit.cli.provision", "destroy"),
    "bundle": ("imagekit.cli.bundle", "app"),
    "reinstall": ("imagekit.cli.reinstall", "reinstall"),
    "check": ("imagekit.cli.check", "check"),
    "inspect": ("imagekit.cli.inspect", "inspect"),
    "prove": ("imagekit.cli.prove", "prove"),
    "mode": ("imagekit.cli.mode", "mode"),
    "netboot": ("imagekit.cli.netboot", "app"),
    "guests": ("imagekit.cli.guests", "app"),
    "iso": ("imagekit.cli.iso", "app"),
    "doctor": ("imagekit.cli.doctor", "doctor"),
    "elements": ("imagekit.cli.elements", "app"),
    "cache": ("imagekit.cli.cache", "app"),
}

EXIT_CODES = (
    "Exit codes: 0 done, 1 error, 2 wrong command line, 3 wrong spec or input, 4 this host lacks "
    "something, 5 a tool failed, 6 download failed, 7 signature or checksum wrong, 8 the image "
    "cannot do it, 9 damaged image, 10 a change in a guest failed, 11 a guest did not boot, 12 in "
    "use, 13 exists already, 14 inconclusive, 130, 143, 129 interrupted. More: docs/exit-codes.md."
)
"""In the help of the program; docs/exit-codes.md says more."""


class _Program(TyperGroup):
    """Says what the value of an option must be in the words that fields of a spec have."""

    def invoke(self, ctx: Any) -> Any:
        """See click's; typer's errors of values hold pydantic's text."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error.__cause__).__name__ == "ValidationError" and hasattr(error, "message"):
                error.message = _of_value(error.__cause__)
            raise


def _of_value(error: Any) -> str:
    from imagekit.spec.faults import faults

    kind = error.errors(include_url=False)[0]
    shapes = {"int": int, "float": float, "bool": bool, "greater": int, "less": int}
    shape: Any = shapes.get(str(kind["type"]).partition("_")[0], str)
    limits = kind.get("ctx", {})
    bounds = [Ge(limits["ge"])] if "ge" in limits else [Le(limits["le"])] if "le" in limits else []
    return faults(error, Annotated[shape, *bounds] if bounds else shape)[0].what


def make_app(names: Iterable[str]) -> typer.Typer:
    """The program with the commands ``names``."""
    app = typer.Typer(
        cls=_Program,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Build Xen guest images from a spec, and prove that they boot.",
        epilog=EXIT_CODES,
    )
    app.callback()(options)
    for name in names:
        module, attribute = COMMANDS[name]
        target: Any = getattr(importlib.import_module(module), attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
    straighten(app)
    # typer turns a lone command into the program itself, unless there is a callback.
    return app


def _version(value: bool) -> None:
    if value:
        print(f"imagekit {__version__}")
        raise typer.Exit


def options(
    context: typer.Context,
    # main() looks for --debug itself, and the callback of --version prints it.
    debug: Annotated[bool, typer.Option("--debug", help="Show Python's trace on errors.")] = False,  # noqa: ARG001
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    allow_unsandboxed: Annotated[
        bool,
        typer.Option(
            "--allow-unsandboxed",
            help="Where this host has no user namespaces or no seccomp: run programs of packages, "
            "elements and scripts all the same, with root's powers over this host.",
        ),
    ] = False,
) -> None:
    """Options of every command."""
    if allow_unsandboxed:
        context.with_resource(_unsandboxed())


@contextlib.contextmanager
def _unsandboxed() -> Iterator[None]:
    """Go on without what this host lacks, and say at the end what that was."""
    from imagekit.host.sandbox.means import allow_unsandboxed

    with allow_unsandboxed() as lost:
        try:
            yield
        finally:
            if lost:
                said = " and ".join(lost)
                print(f"imagekit: warning: programs ran unsandboxed: no {said}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    """Run the program and exit with a documented status (docs/exit-codes.md)."""
    args = sys.argv[1:] if argv is None else argv
    debug = "--debug" in args
    wants_json = "--json" in args
    named = next((a for a in args if not a.startswith("-")), "")
    _listen()
    try:
        make_app([named] if named in COMMANDS else COMMANDS)(args, prog_name="imagekit")
    except (KeyboardInterrupt, Interrupted) as error:
        if debug:
            traceback.print_exc()
        left = getattr(error, "__notes__", ())
        print("\n  ".join(["imagekit: interrupted", *left]) if left else RELEASED, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ImagekitError as error:
        _report(error, debug, wants_json)
    except OSError as error:
        _report(_from_os(error), debug, wants_json)
    finally:
        # The work and its status are settled; a signal in the interpreter's last milliseconds
        # must not turn them into another.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def _listen() -> None:
    """Answer the signals that end a program by Interrupted, for as long as it lives.

    SIGHUP stays ignored for whom nohup(1) started.
    """
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _from_os(error: OSError) -> ImagekitError:
    where = str(error.filename) if error.filename else None
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "imagekit cache prune --all, or use a larger file system"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = "imagekit doctor tells what this user may do here"
    wrapped = HostError(error.strerror or str(error), where=where, hint=hint)
    wrapped.__cause__ = error
    return wrapped


def _report(error: ImagekitError, debug: bool, wants_json: bool) -> None:
    if debug:
        traceback.print_exception(error)
    elif wants_json:
        value = {
            "event": "error",
            "kind": error.kind,
            "what": error.what,
            "where": error.where,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        print(json.dumps(value), flush=True)
    if not debug:
        notes = getattr(error, "__notes__", ())
        text = [f"imagekit: {error}", *map(printable, notes)]
        print("\n  ".join(text), file=sys.stderr)
    sys.exit(error.exit_code)
