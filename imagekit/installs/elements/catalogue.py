"""Which elements there are, where they come from, and which of them a spec needs.

Dependencies are resolved by diskimage-builder's own ``element_dependencies``. An element is a
directory (diskimage_builder/elements/README.rst and "Developing Elements" of its documentation);
where two have one name, the first on the path counts: the spec's directories, then ours, then
diskimage-builder's.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import HostError, SpecError

PHASES = (
    "root.d",
    "extra-data.d",
    "pre-install.d",
    "install.d",
    "post-install.d",
    "post-root.d",
    "block-device.d",
    "pre-finalise.d",
    "finalise.d",
    "cleanup.d",
)
"""Phases of disk-image-create in the order in which it runs them (lib/disk-image-create)."""
ENVIRONMENT = "environment.d"
ROOT_ELEMENT = "imagekit-root"
SYSTEM_ELEMENT = "imagekit-system"
TREE_ELEMENT = "imagekit-tree"
NO_DISK_ELEMENT = "imagekit-no-disk"
SHIPS = ("root",)
ROOT_DIRECTORY = Path(__file__).parent / "root"
RUN_PARTS_NAME = re.compile(r"[0-9A-Za-z_-]+")
"""File names that dib-run-parts runs; all others it passes over."""
MAX_FILE = 64 << 20
_VARIABLE = re.compile(r"\b(DIB_[A-Z0-9_]+)")
_IGNORED = {"tests", "test-elements", "__pycache__"}


@dataclass(frozen=True)
class Element:
    """An element: its name, its real directory, and whose it is."""

    name: str
    path: Path
    origin: str
    depends: tuple[str, ...]
    provides: tuple[str, ...]

    def scripts(self, phase: str) -> list[str]:
        """Names of the files in ``phase`` that dib-run-parts would run, in its order."""
        directory = self.path / phase
        if not directory.is_dir():
            return []
        names = [
            p.name
            for p in directory.iterdir()
            if p.is_file() and os.access(p, os.X_OK) and RUN_PARTS_NAME.fullmatch(p.name)
        ]
        return sorted(names, key=_numeric)

    def phases(self) -> list[str]:
        """Phases in which the element runs something, in their order."""
        return [phase for phase in PHASES if self.scripts(phase)]

    def variables(self) -> list[str]:
        """Names of the DIB_ variables that the element's files mention."""
        found: set[str] = set()
        for path in self.files():
            if path.suffix not in (".rst", ".md") and path.stat().st_size < 1 << 20:
                found.update(_VARIABLE.findall(path.read_text(errors="replace")))
        return sorted(found)

    def files(self) -> Iterator[Path]:
        """All regular files of the element, sorted, without its tests."""
        for directory, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if f not in _IGNORED)
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not name.endswith(".pyc"):
                    yield path

    def digest(self) -> str:
        """SHA-256 of all that can change what the element does: READMEs do not count."""
        return digest(
            (str(path.relative_to(self.path)), path)
            for path in self.files()
            if not path.name.startswith("README")
        )


def _numeric(name: str) -> tuple[int, str]:
    digits = re.match(r"\d+", name)
    return (int(digits[0]) if digits else 0, name)


def shipped_path() -> Path:
    """The elements that come with imagekit: of the installed package, or of a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "data" / "elements"
    return inside if inside.is_dir() else package.parent / "elements"


def library_path(part: str) -> Path:
    """diskimage-builder's ``lib`` or ``elements`` directory; raises HostError without it."""
    try:
        from diskimage_builder import paths
    except ImportError:
        raise HostError(
            "diskimage-builder is not installed",
            hint="pip install 'imagekit[elements]'",
        ) from None
    return Path(paths.get_path(part))


def dib_version() -> str:
    """Version of the installed diskimage-builder."""
    from importlib import metadata

    library_path("lib")
    return metadata.version("diskimage-builder")


def search_path(extra: Sequence[Path]) -> list[tuple[str, Path]]:
    """(origin, directory) in the order in which elements are looked up; raises SpecError."""
    for path in extra:
        if not path.is_dir():
            raise SpecError(f"the directory of elements {path} does not exist")
    return [
        *(("spec", path) for path in extra),
        ("imagekit", shipped_path()),
        ("diskimage-builder", library_path("elements")),
    ]


def find_all(extra: Sequence[Path] = ()) -> dict[str, Element]:
    """Every element by name, the first on the path winning."""
    found: dict[str, Element] = {}
    for origin, directory in search_path(extra):
        for path in sorted(directory.iterdir()):
            if path.is_dir() and not path.name.startswith((".", "_")):
                element = load(path, origin)
                found.setdefault(element.name, element)
    return found


def load(path: Path, origin: str) -> Element:
    """The element in the directory ``path``."""
    real = path.resolve()
    return Element(
        real.name,
        real,
        origin,
        tuple(_words(real / "element-deps")),
        tuple(_words(real / "element-provides")),
    )


def _words(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return sorted({w for line in path.read_text().splitlines() if (w := line.strip())})


def resolve(
    names: Sequence[str],
    extra: Sequence[Path],
    added: Sequence[str] = (SYSTEM_ELEMENT,),
    instead: Sequence[str] = (ROOT_ELEMENT,),
) -> tuple[list[Element], bool]:
    """The elements ``names`` and all they depend on, sorted by name.

    The flag tells whether one of them provides the operating system; then ``added``, elements of
    our own, are among them. If none does, ``instead`` are: our placeholder for a tree that is there
    already, or one that brings imagekit's tree. Raises SpecError.
    """
    directories = [*search_path(extra), ("imagekit", ROOT_DIRECTORY)]
    dependencies = _dependencies()
    where = ":".join(str(path) for _origin, path in directories)
    provided = True
    try:
        try:
            pairs = dependencies.get_elements([*names, *added], where)
        except dependencies.MissingOSException:
            provided = False
            pairs = dependencies.get_elements([*names, *instead], where)
    except (
        dependencies.MissingElementException,
        dependencies.AlreadyProvidedException,
    ) as error:
        raise _refusal(error, extra) from None
    origins = {path.resolve(): origin for origin, path in directories}
    elements = [load(Path(p), origins.get(Path(p).parent, "imagekit")) for _name, p in pairs]
    return sorted(elements, key=lambda e: e.name), provided


def _refusal(error: Exception, extra: Sequence[Path]) -> SpecError:
    missing = re.search(r"'([^']+)'", str(error))
    near = difflib.get_close_matches(missing[1], find_all(extra), 3) if missing else []
    hint = f"did you mean {', '.join(near)}?" if near else "imagekit elements list shows them all"
    text = str(error) or "two elements provide the same thing"
    return SpecError(text[:1].lower() + text[1:], hint=hint)


def _dependencies() -> Any:
    library_path("lib")
    from diskimage_builder import element_dependencies

    # It warns of every element that takes the place of another, which is our documented order.
    logging.getLogger(element_dependencies.__name__).setLevel(logging.ERROR)
    return element_dependencies


def digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over names, execute bits, link targets and contents; raises SpecError."""
    total = hashlib.sha256()
    for name, path in files:
        status = path.lstat()
        if path.stat().st_size > MAX_FILE:
            raise SpecError(f"{path} is larger than 64 MiB: not a file of an element")
        link = str(path.readlink()) if path.is_symlink() else ""
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name}\0{status.st_mode & 0o111:o}\0{link}\0{content}\n".encode())
    return total.hexdigest()
