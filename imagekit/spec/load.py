"""Reads a spec file: YAML with positions, ``--set`` overrides, and errors that name the place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from imagekit.errors import SpecError
from imagekit.spec.credentials import public
from imagekit.spec.faults import MAX_WORDED, Fault, faults
from imagekit.spec.model import Spec
from imagekit.spec.nearest import did_you_mean
from imagekit.spec.places import Document
from imagekit.spec.shape import Loc, place_of
from imagekit.spec.yamltext import yaml_reader

MAX_SPEC_BYTES = 1 << 20
MAX_ERRORS = 20
MAX_BESIDE = 1000
"""Files looked at for the one that was meant."""
DOMAIN_FIELDS = frozenset({"memory", "maxmem", "vcpus", "nics", "machine", "toolstacks", "proof"})
"""Fields that say how a guest runs, and nothing about its disk."""
ALL_FIELDS = "imagekit schema --markdown lists all fields"


@dataclass(frozen=True)
class SpecFile:
    """A checked spec with the place it came from.

    ``sha256`` digests the checked spec with its overrides, not the file's bytes. Fields that have
    their default are left out, so that a lock stays valid when a later version knows more fields.
    """

    spec: Spec
    path: Path
    sha256: str
    tree: Any
    overrides: Mapping[Loc, str] = field(default_factory=dict, kw_only=True)
    """Keys of ``--set``, by the place that each changed."""

    @cached_property
    def image_sha256(self) -> str:
        """The same of what an image is made of: without memory, NICs and all else that only domains
        have. A lock is for an image, and stays valid when these change."""
        return _digest(self.spec, without=DOMAIN_FIELDS)

    def fits(self, lock_sha256: str) -> bool:
        """Whether a lock that has this digest is one for this spec; older ones digest all of it."""
        return lock_sha256 in (self.image_sha256, self.sha256)

    @property
    def base(self) -> Path:
        """Directory that relative paths in the spec start from."""
        return self.path.parent

    def where(self, *loc: str | int) -> str:
        """``file:line:column field`` of a field, or ``--set field``, for errors found later."""
        return Document(self.path, self.tree, overrides=self.overrides).where(loc)

    def resolve(self, name: str) -> Path:
        """A path of the spec, relative to the spec's directory, as an absolute path."""
        return (self.base / name).absolute()


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SpecFile:
    """Load and check the spec at ``path`` with ``key=value`` ``overrides``; raises SpecError."""
    text = _read(path)
    tree = _parse(text, path)
    made: dict[Loc, str] = {}
    written: dict[Loc, str] = {}
    for override in overrides:
        done = _apply(tree, override)
        made[done.made] = done.key
        written[done.loc] = done.text
    document = Document(path, tree, text, made, written)
    try:
        return _check(document)
    except SpecError as error:
        blamed = (error.where or error.what).startswith("--set")
        if made and not blamed and _fits(_parse(text, path)):
            # A field that contradicts an override: the file by itself is right.
            keys = ", ".join(f"--set {key}" for key in made.values())
            error.where = f"{keys}: {error.where}" if error.where else keys
        raise


def check_tree(tree: Any, path: Path) -> SpecFile:
    """Check an already parsed tree as the spec of ``path``."""
    return _check(Document(path, tree))


def _check(document: Document) -> SpecFile:
    try:
        spec = Spec.model_validate(_plain(document.tree))
    except ValidationError as error:
        found = faults(error, Spec, document.scalars())
        raise _refused(found, document) from None
    path = document.path.absolute()
    return SpecFile(spec, path, _digest(spec), document.tree, overrides=document.overrides)


def _fits(tree: Any) -> bool:
    try:
        Spec.model_validate(_plain(tree))
    except (ValidationError, SpecError):
        return False
    return True


def _refused(found: Sequence[Fault], document: Document) -> SpecError:
    if len(found) <= MAX_WORDED:
        found = sorted(found, key=lambda fault: document.position(fault.loc))
    if len(found) == 1:
        only = found[0]
        return SpecError(only.what, where=document.where(only.loc), hint=only.hint or ALL_FIELDS)
    lines: list[str] = []
    for fault in found[:MAX_ERRORS]:
        line = f"{document.where(fault.loc)}: {fault.what}"
        lines.append(f"{line}; {fault.hint}" if fault.hint else line)
    if len(found) > MAX_ERRORS:
        left = len(found) - MAX_ERRORS
        lines.append(f"{document.path}: and {left} more; the first {MAX_ERRORS} are above")
    return SpecError("\n".join(lines), hint=ALL_FIELDS)


def _digest(spec: Spec, without: Collection[str] = ()) -> str:
    told = spec.model_dump(mode="json", exclude={"os": {"proxy"}}, exclude_defaults=True)
    # A password is no part of what a guest is: a bundle leaves it out, and is of the same spec.
    told |= {part: public(told[part]) for part in ("os", "install") if part in told}
    told = {name: value for name, value in told.items() if name not in without}
    canonical = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SPEC_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(
            f"there is no such spec{_meant(path)}",
            where=str(path),
            hint="name the YAML file of a guest; docs/spec.md says what is in it",
        ) from None
    except OSError as error:
        raise SpecError(f"cannot read the spec: {error.strerror}", where=str(path)) from None
    if len(raw) > MAX_SPEC_BYTES:
        raise SpecError("the spec is larger than 1 MiB", where=str(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError("the spec is not UTF-8", where=f"{path}:{line}:1") from None


def _meant(path: Path) -> str:
    """The file in the same directory that was probably meant."""
    with contextlib.suppress(OSError):
        beside = itertools.islice(path.parent.iterdir(), MAX_BESIDE)
        return did_you_mean(path.name, [p.name for p in beside if p.suffix in (".yaml", ".yml")])
    return ""


def _parse(text: str, path: Path) -> CommentedMap:
    try:
        tree = yaml_reader("rt").load(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        hint = "indent with blanks, YAML has no tabs" if "\\t" in str(error.problem) else None
        raise SpecError(
            f"not YAML: {error.problem or error.context}", where=where, hint=hint
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"not YAML: {error}", where=str(path)) from None
    if not isinstance(tree, CommentedMap):
        raise SpecError(
            "the spec is not a mapping of fields",
            where=f"{path}:1:1",
            hint="begin with name: NAME, os: {suite: SUITE} and install: {method: debootstrap}",
        )
    return tree


@dataclass(frozen=True)
class _Override:
    """A ``--set``: the place of the topmost value that it made, and of its own."""

    made: Loc
    loc: Loc
    key: str
    text: str


def _apply(tree: CommentedMap, override: str) -> _Override:
    """Put ``override`` into ``tree``."""
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", key):
        raise SpecError(f"{override!r} is not key=value, for example disk.size=4GiB", where="--set")
    try:
        value = yaml_reader("rt").load(text) if text else None
    except YAMLError:
        value = text
    node: Any = tree
    parts = key.split(".")
    loc: list[str | int] = []
    made: Loc | None = None
    for part, following in itertools.pairwise(parts):
        loc.append(_index(node, part, key) if isinstance(node, CommentedSeq) else part)
        if isinstance(node, CommentedMap) and node.get(part) is None:
            if following.isdigit():
                raise SpecError(
                    f"the spec has no list {place_of(tuple(loc))}, so there is no item {following}",
                    where=f"--set {key}",
                    hint=f"--set '{'.'.join(map(str, loc))}=[...]' makes the whole list",
                )
            node[part] = CommentedMap()
            made = made or tuple(loc)
        node = node[loc[-1]]
        if not isinstance(node, CommentedMap | CommentedSeq):
            raise SpecError(f"{part} is a value, it has no fields", where=f"--set {key}")
    last = parts[-1]
    loc.append(_index(node, last, key) if isinstance(node, CommentedSeq) else last)
    node[loc[-1]] = value
    return _Override(made or tuple(loc), tuple(loc), key, text)


def _index(node: CommentedSeq, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        what = f"{part} is not an index of the list, which has {len(node)} of them, from 0"
        raise SpecError(what, where=f"--set {key}")
    return int(part)


def _plain(node: Any, depth: int = 0) -> Any:
    if depth > 32:
        raise SpecError("the spec is nested deeper than 32 levels")
    if isinstance(node, CommentedMap):
        return {str(k): _plain(v, depth + 1) for k, v in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(v, depth + 1) for v in node]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        return float(node)
    return str(node)
