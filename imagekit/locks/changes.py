"""What changed between two locks, for a change ticket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imagekit.spec.lock import Lock, LockedPackage


@dataclass(frozen=True)
class Change:
    """One thing that differs; ``old`` or ``new`` is None for what came or went."""

    kind: str
    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.kind} {self.name} {self.new}"
        if self.new is None:
            return f"- {self.kind} {self.name} {self.old}"
        return f"  {self.kind} {self.name}: {self.old} -> {self.new}"


def changes(old: Lock, new: Lock) -> list[Change]:
    """Everything in which ``new`` differs from ``old``, packages last, by name."""
    found = []
    for field in ("name", "spec_sha256", "method", "kernel", "iso_sha256", "keyring_sha256"):
        found += _pair(field, "", getattr(old, field), getattr(new, field))
    found += _pair("source_date_epoch", "", str(old.source_date_epoch), str(new.source_date_epoch))
    found += _pair("seed", "", old.seed, new.seed)
    found += _mappings("input", old.inputs, new.inputs)
    found += _mappings("template", old.templates, new.templates)
    found += _mappings("tool", old.tools, new.tools)
    found += _mappings("element", _elements(old), _elements(new))
    found += _mappings("source", _same(old.sources), _same(new.sources))
    found += _mappings("release", _releases(old), _releases(new))
    found += _mappings("package", _packages(old), _packages(new))
    found += _mappings("installed", _installed(old), _installed(new))
    return found


def _pair(kind: str, name: str, old: str | None, new: str | None) -> list[Change]:
    return [] if old == new else [Change(kind, name, old or None, new or None)]


def _mappings(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    return [
        Change(kind, name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _same(lines: list[str]) -> dict[str, str]:
    return {line: line for line in lines}


def _elements(lock: Lock) -> dict[str, str]:
    return {e.name: f"{e.path} ({e.sha256[:12]})" for e in lock.elements}


def _releases(lock: Lock) -> dict[str, str]:
    rows: dict[str, list[str]] = {}
    for release in lock.releases:
        rows.setdefault(release.suite, []).append(release.sha256[:16])
    return {suite: ", ".join(digests) for suite, digests in rows.items()}


def _installed(lock: Lock) -> dict[str, str]:
    rows: dict[str, list[str]] = {}
    for package in lock.installed:
        rows.setdefault(f"{package.name}:{package.architecture}", []).append(package.version)
    return {name: ", ".join(sorted(versions)) for name, versions in rows.items()}


def _packages(lock: Lock) -> dict[str, str]:
    """Version by name and architecture; a rebuilt package of one version shows its digest too."""
    rows: dict[str, list[LockedPackage]] = {}
    for package in lock.packages:
        rows.setdefault(f"{package.name}:{package.architecture}", []).append(package)
    return {
        name: ", ".join(f"{p.version} ({p.sha256[:12]})" for p in found)
        for name, found in rows.items()
    }
