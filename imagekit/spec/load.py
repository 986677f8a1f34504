"""Reads a spec file: YAML with positions, ``--set`` overrides, and errors that name the place."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from imagekit.errors import SpecError
from imagekit.spec.credentials import public
from imagekit.spec.model import Spec
from imagekit.spec.yamltext import yaml_reader

MAX_SPEC_BYTES = 1 << 20
MAX_ERRORS = 20
DOMAIN_FIELDS = frozenset({"memory", "maxmem", "vcpus", "nics", "machine", "toolstacks", "proof"})
"""Fields that say how a guest runs, and nothing about its disk."""
Loc = tuple[str | int, ...]


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
        """``file:line:column field`` of a field, for errors found after loading."""
        return _where(self.path, self.tree, loc)

    def resolve(self, name: str) -> Path:
        """A path of the spec, relative to the spec's directory, as an absolute path."""
        return (self.base / name).absolute()


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SpecFile:
    """Load and check the spec at ``path`` with ``key=value`` ``overrides``; raises SpecError."""
    tree = _read(path)
    for override in overrides:
        _apply(tree, override)
    return check_tree(tree, path)


def check_tree(tree: Any, path: Path) -> SpecFile:
    """Check an already parsed tree as the spec of ``path``."""
    try:
        spec = Spec.model_validate(_plain(tree))
    except ValidationError as error:
        raise SpecError(_messages(error, path, tree), hint="imagekit schema shows it all") from None
    return SpecFile(spec, path.absolute(), _digest(spec), tree)


def _digest(spec: Spec, without: Collection[str] = ()) -> str:
    told = spec.model_dump(mode="json", exclude={"os": {"proxy"}}, exclude_defaults=True)
    # A password is no part of what a guest is: a bundle leaves it out, and is of the same spec.
    told |= {part: public(told[part]) for part in ("os", "install") if part in told}
    told = {name: value for name, value in told.items() if name not in without}
    canonical = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(path: Path) -> CommentedMap:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SPEC_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot read the spec: {error.strerror}", where=str(path)) from None
    if len(raw) > MAX_SPEC_BYTES:
        raise SpecError("the spec is larger than 1 MiB", where=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError("the spec is not UTF-8", where=f"{path}:{line}:1") from None
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
        raise SpecError("a spec is a mapping, beginning with name:", where=f"{path}:1:1")
    return tree


def _apply(tree: CommentedMap, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", key):
        raise SpecError(f"{override!r} is not key=value, for example disk.size=4GiB", where="--set")
    try:
        value = yaml_reader("rt").load(text) if text else None
    except YAMLError:
        value = text
    node: Any = tree
    parts = key.split(".")
    for part in parts[:-1]:
        node = _step(node, part, key)
    last = parts[-1]
    if isinstance(node, CommentedSeq):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _step(node: Any, part: str, key: str) -> Any:
    if isinstance(node, CommentedSeq):
        return node[_index(node, part, key)]
    if node.get(part) is None:
        node[part] = CommentedMap()
    child = node[part]
    if not isinstance(child, CommentedMap | CommentedSeq):
        raise SpecError(f"{part} is a value, it has no fields", where=f"--set {key}")
    return child


def _index(node: CommentedSeq, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise SpecError(f"{part} is not an index from 0 to {len(node) - 1}", where=f"--set {key}")
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


def _where(path: Path, tree: Any, loc: Loc) -> str:
    line, column = 0, 0
    node = tree
    shown = ""
    for part in loc:
        shown += f"[{part}]" if isinstance(part, int) else (f".{part}" if shown else str(part))
        positions = getattr(getattr(node, "lc", None), "data", None) or {}
        if part in positions:
            line, column = positions[part][0], positions[part][1]
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return f"{path}:{line + 1}:{column + 1} {shown}".rstrip()


def _messages(error: ValidationError, path: Path, tree: Any) -> str:
    lines: list[str] = []
    items = error.errors(include_url=False, include_context=False, include_input=False)
    for done, item in enumerate(items):
        if len(lines) == MAX_ERRORS:
            lines.append(f"{path}: and {len(items) - done} more; the first {MAX_ERRORS} are above")
            break
        # Discriminated unions and literals put the variant's name into the location.
        loc = _real_loc(item["loc"], tree)
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "unknown key"
        elif item["type"] == "missing":
            text = "is required"
        line = f"{_where(path, tree, loc)}: {text}"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def _real_loc(loc: tuple[int | str, ...], tree: Any) -> Loc:
    real: list[str | int] = []
    node = tree
    for index, part in enumerate(loc):
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            if index == len(loc) - 1 and isinstance(node, CommentedMap) and part != "[key]":
                real.append(part)
            continue
        real.append(part)
    return tuple(real)
