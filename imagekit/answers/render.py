"""Renders preseed, kickstart and autoinstall files from a spec, by our templates or a user's."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from imagekit.answers.context import Context
from imagekit.answers.quoting import FILTERS
from imagekit.errors import HostError, SpecError

Kind = Literal["preseed", "kickstart", "autoinstall"]
TEMPLATES: dict[str, tuple[str, str]] = {
    "preseed": ("preseed", "debian.cfg.j2"),
    "kickstart": ("kickstart", "default.ks.j2"),
    "autoinstall": ("autoinstall", "user-data.yaml.j2"),
}
MAX_TEMPLATE = 1 << 20
MAX_RENDERED = 1 << 20


def shipped_template(kind: Kind) -> Path:
    """Our template: of the checkout, or of the installed package's data."""
    package = Path(__file__).parents[1]
    directory, name = TEMPLATES[kind]
    for base in (package / "data", package.parent):
        path = base / directory / name
        if path.is_file():
            return path
    raise HostError(f"the template {directory}/{name} is not installed", where=str(package))


def render(kind: Kind, context: Context, template: Path | None = None) -> str:
    """The answers file. ``template`` replaces ours.

    Raises SpecError with file and line of the template: for an undefined variable, for a syntax
    error, and for a value that the format cannot hold.
    """
    path, source = read_template(kind, template)
    env = environment()
    try:
        compiled = env.compile(source, name=path.name, filename=str(path))
        rendered = jinja2.Template.from_code(env, compiled, env.globals)
        text = bounded(rendered, context.variables(), path)
    except jinja2.TemplateSyntaxError as error:
        raise SpecError(f"{error.message}", where=f"{path}:{error.lineno}") from None
    except SpecError as error:
        line = _line(error, path)
        error.where = f"{path}:{line}" + (f": {error.where}" if error.where else "")
        raise
    except jinja2.UndefinedError as error:
        raise SpecError(
            str(error),
            where=f"{path}:{_line(error, path)}",
            hint="docs/iso.md lists the variables of a template",
        ) from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise SpecError(f"{error}", where=f"{path}:{_line(error, path)}") from None
    return text if text.endswith("\n") else text + "\n"


def read_template(kind: Kind, template: Path | None) -> tuple[Path, str]:
    """Path and text of ``template``, or of ours; raises SpecError."""
    path = template or shipped_template(kind)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEMPLATE + 1)
        source = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the template cannot be read: {error}", where=str(path)) from None
    if len(data) > MAX_TEMPLATE:
        raise SpecError("the template is larger than 1 MiB", where=str(path))
    return path, source


def environment() -> ImmutableSandboxedEnvironment:
    """jinja2 as templates of answers get it: sandboxed, with the quoting filters."""
    made = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters |= FILTERS
    return made


def bounded(
    template: jinja2.Template, variables: dict[str, Any], path: Path, factor: int = 1
) -> str:
    """What ``template`` makes, at most ``factor`` MiB; raises SpecError."""
    pieces, size = [], 0
    for piece in template.generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_RENDERED * factor:
            raise SpecError(f"the template makes more than {factor} MiB", where=str(path))
    return "".join(pieces)


def _line(error: Exception, path: Path) -> int | str:
    """The template's line in the trace of ``error``, the innermost one."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path) and frame.lineno
    ]
    return lines[-1] if lines else "?"
