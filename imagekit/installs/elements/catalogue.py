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
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import HostError, SpecError
from imagekit.installs.elements import content

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
_VARIABLE = re.compile(r"\b(DIB_[A-Z0-9_]+)")


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
            if path.suffix not in (".rst", ".md"):
                text = content.text(self.path, str(path.relative_to(self.path))) or ""
                found.update(_VARIABLE.findall(text) if len(text) < 1 << 20 else ())
        return sorted(found)

    def files(self) -> Iterator[Path]:
        """All regular files of the element, sorted, without its tests.

        Raises SpecError for what is no content of an element (:mod:`.content`).
        """
        for entry in content.entries(self.path):
            if entry.leads_to == "file":
                yield self.path / entry.name

    def digest(self) -> str:
        """SHA-256 of all that can change what the element does: READMEs do not count."""
        return digest(
            (str(path.relative_to(self.path)), self, path)
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
        for element in _in_directory(origin, directory):
            found.setdefault(element.name, element)
    return found


def _in_directory(origin: str, directory: Path) -> Iterator[Element]:
    """The elements of one directory; raises SpecError for a link that leads out of it."""
    real = directory.resolve()
    for path in sorted(directory.iterdir()):
        if not path.name.startswith((".", "_")) and path.is_dir():
            if path.is_symlink() and real not in path.resolve().parents:
                raise SpecError(
                    "is a link that leads out of the directory of elements",
                    where=str(path),
                    hint="name the directory that it leads to in element_path (--path), too",
                )
            yield load(path, origin)


def load(path: Path, origin: str) -> Element:
    """The element in the directory ``path``."""
    real = path.resolve()
    return Element(
        real.name,
        real,
        origin,
        tuple(_words(real, "element-deps")),
        tuple(_words(real, "element-provides")),
    )


def _words(element: Path, name: str) -> list[str]:
    text = content.text(element, name) or ""
    return sorted({w for line in text.splitlines() if (w := line.strip())})


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
    with tempfile.TemporaryDirectory(prefix="imagekit-elements-") as scratch:
        known = _relations(directories, Path(scratch))
        where = ":".join(str(path) for path in sorted(Path(scratch).iterdir()))
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
        elements = [known[Path(path).relative_to(Path(scratch).resolve())] for _name, path in pairs]
    return sorted(elements, key=lambda e: e.name), provided


def _relations(directories: Sequence[tuple[str, Path]], scratch: Path) -> dict[Path, Element]:
    """Copies of what the elements say of each other, for diskimage-builder, which opens anything.

    Returns the elements by the directories of their copies, relative to ``scratch``.
    """
    known: dict[Path, Element] = {}
    for number, (origin, directory) in enumerate(directories):
        for element in _in_directory(origin, directory):
            relative = Path(f"{number:04d}", element.name)
            if relative in known:
                continue
            known[relative] = element
            (scratch / relative).mkdir(parents=True)
            for name, words in (
                ("element-deps", element.depends),
                ("element-provides", element.provides),
            ):
                if words:
                    (scratch / relative / name).write_text("".join(f"{w}\n" for w in words))
        (scratch / f"{number:04d}").mkdir(exist_ok=True)
    return known


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


def digest(files: Iterable[tuple[str, Element, Path]]) -> str:
    """SHA-256 over names, execute bits, link targets and contents; raises SpecError."""
    total = hashlib.sha256()
    for name, element, path in files:
        inside = str(path.relative_to(element.path))
        mode, link = content.identity(element.path, inside)
        data = hashlib.sha256(content.read(element.path, inside) or b"").hexdigest()
        total.update(f"{name}\0{mode & 0o111:o}\0{link}\0{data}\n".encode())
    return total.hexdigest()
