"""What one package tells another is an object: dicts of anything are counted and held to a list.

``to_json`` makes JSON where a class is written, and a stage's ``key`` is digested and not read;
every other public function, method or field whose annotation has a ``dict[str, Any]`` (``Mapping``,
or ``object`` for ``Any``) is in ALLOWED with the reason why no type could stand there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import imagekit

PACKAGE = Path(imagekit.__file__).parent
BY_NATURE = ("to_json", "key")
ALLOWED: dict[str, tuple[str, ...]] = {
    "the values of a template, which anybody may name": (
        "answers: Context.variables",
        "answers: bounded",
    ),
    "JSON or YAML that its own class writes and reads": (
        "disk: Layout.from_json",
        "domain: dump",
        "spec: json_schema",
        "proof: Seen.result",
        "provision: Journal.entries",
        "provision: Guests.defaults",
        "provision: Guests.guests",
        "provision: make_request",
        "pipeline: BuildDirectory.state",
        "recovery: write_container",
        "recovery: Checked.about",
    ),
    "messages of another program's protocol: QMP, block devices of QEMU, XAPI's records": (
        "vm: Messages.feed",
        "vm: request",
        "proof: Overlaid.node",
        "toolstacks: vm_record",
        "toolstacks: Api.records",
    ),
    "files of other programs: netplan, cloud-init, CycloneDX, diskimage-builder": (
        "guest: ethernets",
        "provision: network_config",
        "installs: bill_of_materials",
        "installs: provenance",
        "installs: BlockDevice.kind",
    ),
    "the engine knows no Xen: what a stage delivers or tells is the stage's own": (
        "pipeline: Event.fields",
        "pipeline: Target.fields",
    ),
    "programs that run confined on the standard library alone, and what is sent to them": (
        "proof: Job.__init__",
        "pypxeboot: run",
        "pypxeboot: load_profile",
        "pypxeboot: merge",
    ),
    "parts of a stage's key, or of a lock": (
        "installs: InstalledLock.__init__",
        "installs: changes_key",
        "installs: digest_of",
        "installs: changes_key",
    ),
}


def is_loose(annotation: ast.expr) -> bool:
    """Whether a dict or mapping of strings to anything is part of ``annotation``."""
    for node in ast.walk(annotation):
        if (
            isinstance(node, ast.Subscript)
            and ast.unparse(node.value).rpartition(".")[2] in ("dict", "Mapping", "MutableMapping")
            and isinstance(node.slice, ast.Tuple)
            and ast.unparse(node.slice) in ("(str, Any)", "(str, object)")
        ):
            return True
    return False


def annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    """Those of the arguments and of what is returned."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    yield from (a.annotation for a in every if a is not None and a.annotation is not None)
    if function.returns is not None:
        yield function.returns


def signatures(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, list[ast.expr]]]:
    """Name and annotations of every public function, method and field of a module's ``body``."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or node.name == "__init__":
                yield within + node.name, list(annotated(node))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from signatures(node.body, f"{node.name}.")
        elif within and isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            if not name.startswith("_"):
                yield within + name, [node.annotation]


def loose(source: str) -> list[str]:
    """The public names of a module that take, return or hold dicts of anything."""
    return [
        name
        for name, found in signatures(ast.parse(source).body)
        if name.rpartition(".")[2] not in BY_NATURE and any(map(is_loose, found))
    ]


def test_dicts_of_anything_are_where_they_may_be_and_nowhere_else() -> None:
    found = {
        f"{path.relative_to(PACKAGE).parts[0]}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in loose(path.read_text())
    }
    allowed = {entry for entries in ALLOWED.values() for entry in entries}
    assert found - allowed == set(), "new: give it a type, or a place in ALLOWED with its reason"
    assert allowed - found == set(), "gone: take it out of ALLOWED, so that it stays away"


def test_what_is_counted() -> None:
    source = """
def one(a: dict[str, Any]) -> None: ...
def two() -> list[Mapping[str, object]] | None: ...
def _three(a: dict[str, Any]) -> None: ...
def four(a: dict[str, int], *, b: Mapping[int, Any]) -> None: ...
class Five:
    six: typing.Mapping[str, Any]
    _seven: dict[str, Any]
    def eight(self, **more: dict[str, Any]) -> None: ...
    def key(self) -> dict[str, Any]: ...
class _Nine:
    ten: dict[str, Any]
"""
    assert loose(source) == ["one", "two", "Five.six", "Five.eight"]
