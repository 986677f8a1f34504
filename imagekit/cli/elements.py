"""``imagekit elements``: which diskimage-builder elements there are, and what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from imagekit.errors import SpecError
from imagekit.installs.elements.catalogue import Element, find_all, load
from imagekit.installs.elements.lint import Finding
from imagekit.installs.elements.lint import lint as lint_element

app = typer.Typer(no_args_is_help=True, help="List, show and check diskimage-builder elements.")
PathOption = Annotated[
    list[Path] | None,
    typer.Option("--path", metavar="DIR", help="A directory of elements, searched first."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(path: PathOption = None, json_output: JsonOption = False) -> None:
    """List every element with its origin and its phases."""
    elements = find_all(path or [])
    if json_output:
        print(json.dumps([_facts(e) for e in elements.values()], indent=2))
        return
    for name in sorted(elements):
        element = elements[name]
        phases = " ".join(p.removesuffix(".d") for p in element.phases())
        print(f"{name:<28} {element.origin:<18} {phases}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ELEMENT")],
    path: PathOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show one element: where it is, what it needs, its scripts and its variables."""
    element = _named(name, path or [])
    if json_output:
        print(json.dumps(_facts(element), indent=2))
        return
    print(f"{element.name}: {element.path} ({element.origin})")
    if element.depends:
        print(f"  depends   {' '.join(element.depends)}")
    if element.provides:
        print(f"  provides  {' '.join(element.provides)}")
    for phase in element.phases():
        print(f"  {phase:<16} {' '.join(element.scripts(phase))}")
    for variable in element.variables():
        print(f"  variable  {variable}")


@app.command()
def lint(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="ELEMENT...", help="Names or directories. Default: --path's, ours."),
    ] = None,
    path: PathOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check elements: run bits, phases, dependencies, data files, shell syntax, bashisms."""
    extra = path or []
    known = find_all(extra)
    chosen = [_named(n, extra) for n in names or []]
    if not names:
        wanted = "spec" if extra else "imagekit"
        chosen = [e for e in known.values() if e.origin == wanted]
    findings: list[Finding] = []
    for element in chosen:
        siblings = {p.name: load(p, "spec") for p in element.path.parent.iterdir() if p.is_dir()}
        findings += lint_element(element, {**known, **siblings})
    if json_output:
        print(json.dumps([{**vars(f), "path": str(f.path)} for f in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(chosen)} elements checked, {len(findings)} findings")
    if any(f.level == "error" for f in findings):
        raise typer.Exit(SpecError.exit_code)


def _named(name: str, extra: list[Path]) -> Element:
    if "/" in name:
        if not Path(name).is_dir():
            raise SpecError(f"there is no element {name}")
        return load(Path(name), "spec")
    found = find_all(extra).get(name)
    if found is None:
        raise SpecError(
            f"there is no element {name}",
            hint="imagekit elements list shows them all; --path names more directories",
        )
    return found


def _facts(element: Element) -> dict[str, Any]:
    return {
        "name": element.name,
        "origin": element.origin,
        "path": str(element.path),
        "depends": element.depends,
        "provides": element.provides,
        "phases": {phase: element.scripts(phase) for phase in element.phases()},
        "variables": element.variables(),
    }
