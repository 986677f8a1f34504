"""What the code of a stage is: its module, every module that imports, and what these ship.

A stage's key digests it, so that a changed program makes its results anew and nobody counts
versions by hand. Nothing is executed: import statements are found in the text, those in functions
too, those for type checkers alone not. Files beside a module that it runs or reads are part of it
when a constant of the module names them: ``SHIPS = ("child.py", "templates")``, files and whole
directories, relative to the module.

Where there are no sources (frozen programs), the version of imagekit stands for them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from imagekit.errors import ImagekitError

OWN = __name__.partition(".")[0]
# Statements as the grammar has them (docs.python.org, 7.11), which ruff's format puts on lines of
# their own; a hundred modules are read in milliseconds this way, and in half a second by ast.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+"
    r"(\((?:[^)#]|#[^\n]*)*\)|(?:[^\n\\#;]|\\\n)+)"
    r"|import[ \t]+([\w., \t]+))",
    re.MULTILINE,
)
_COMMENT = re.compile(r"#[^\n]*")
_FOR_TYPES = re.compile(
    r"^if (?:typing\.)?TYPE_CHECKING:[^\n]*\n(?:(?:[ \t]+[^\n]*)?\n)+", re.MULTILINE
)
_SHIPS = re.compile(r"^SHIPS(?:[ \t]*:[^=\n]*)?[ \t]*=[ \t]*(\([^)]*\))", re.MULTILINE)


@dataclass(frozen=True)
class _Module:
    """The SHA-256 of a module and what it ships, and the names that it may import."""

    digest: str
    imports: frozenset[str]


def code_digest(stage: type, loads: Iterable[str] = ()) -> str:
    """SHA-256 of all code of imagekit, and of the package of ``stage``, that ``stage`` runs.

    ``loads`` are modules that it imports by a name found at run time, of which no import statement
    tells. The digest is the same for as long as the process lives, as the code is. Raises
    ImagekitError for a file in SHIPS that is not there.
    """
    return _digest(_starts(stage, loads))


def code_modules(stage: type, loads: Iterable[str] = ()) -> list[str]:
    """Names of the modules whose source :func:`code_digest` covers, sorted."""
    return sorted(_closure(_starts(stage, loads)))


def _starts(stage: type, loads: Iterable[str]) -> tuple[str, ...]:
    own = (c.__module__ for c in stage.__mro__ if not _is_library(c))
    return tuple(dict.fromkeys((*own, *loads)))


def _is_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}


@functools.cache
def _digest(starts: tuple[str, ...]) -> str:
    found = _closure(starts)
    lines = (f"{name} {found[name].digest}\n" for name in sorted(found))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _closure(starts: Iterable[str]) -> dict[str, _Module]:
    tops = {OWN, *(name.partition(".")[0] for name in starts)}
    found: dict[str, _Module] = {}
    queue = list(starts)
    while queue:
        name = queue.pop()
        if name in found or name.partition(".")[0] not in tops:
            continue
        module = _module(name)
        if module is not None:
            found[name] = module
            queue += module.imports
    return found


@functools.cache
def _module(name: str) -> _Module | None:
    """The module ``name``, or None when there is none of that name."""
    spec = _spec(name)
    if spec is None:
        return None
    text = _source(name, spec)
    if text is None:
        return _Module("", frozenset(_with_parents([name])))
    digest = hashlib.sha256(text)
    source = text.decode("utf-8", "replace")
    for file, content in _shipped(source, spec):
        digest.update(f"\n{file} {hashlib.sha256(content).hexdigest()}".encode())
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    return _Module(digest.hexdigest(), frozenset(_with_parents([name, *imports(source, package)])))


def _spec(name: str) -> ModuleSpec | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        if loaded.__spec__ is None and getattr(loaded, "__file__", None):
            return ModuleSpec(name, None, origin=loaded.__file__)  # a program that was run by path
        return loaded.__spec__
    parent = name.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(name)
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, above.submodule_search_locations)


def _source(name: str, spec: ModuleSpec) -> bytes | None:
    if spec.origin is not None and spec.origin.endswith(".py"):
        try:
            return Path(spec.origin).read_bytes()
        except OSError:  # in a zip file: its loader knows
            pass
    read = getattr(spec.loader, "get_source", None)
    try:
        text = read(name) if read is not None else None
    except ImportError:
        return None
    return text.encode() if text is not None else None


def imports(source: str, package: str) -> Iterator[str]:
    """Absolute names that ``source``, of a module in ``package``, imports, or takes from them.

    What is imported from a module may be a module of its own, so that name is among them too.
    """
    for match in _IMPORT.finditer(_FOR_TYPES.sub("", source)):
        origin, taken, plain = match.groups()
        if plain is not None:
            yield from _names(plain)
            continue
        dots = len(origin) - len(origin.lstrip("."))
        if dots:
            above = package.split(".")[: len(package.split(".")) - dots + 1]
            origin = ".".join([*above, *([origin[dots:]] if origin[dots:] else [])])
        yield origin
        yield from (f"{origin}.{name}" for name in _names(taken) if name != "*")


def _names(listed: str) -> Iterator[str]:
    for part in _COMMENT.sub("", listed).strip("() \t\n").replace("\\\n", " ").split(","):
        if part.strip():
            yield part.split()[0]


def _with_parents(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield name
        while "." in name:
            name = name.rpartition(".")[0]
            yield name


def _shipped(source: str, spec: ModuleSpec) -> Iterator[tuple[str, bytes]]:
    match = _SHIPS.search(source)
    if match is None:
        return
    home = Path(spec.origin or "").parent
    for name in ast.literal_eval(match[1]):
        path = Path(os.path.normpath(home / name))
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            yield from ((f"{name}/{p.relative_to(path)}", p.read_bytes()) for p in sorted(inside))
        elif path.is_file():
            yield name, path.read_bytes()
        elif not home.is_dir():
            yield name, _packed(spec, path)
        else:
            raise ImagekitError(f"{spec.name} ships {name}, and there is no {path}")


def _packed(spec: ModuleSpec, path: Path) -> bytes:
    """A file in a zip file; of a directory there the version alone tells."""
    read = getattr(spec.loader, "get_data", None)
    try:
        return bytes(read(str(path))) if read is not None else b""
    except OSError:
        return b""
