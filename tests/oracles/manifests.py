"""Manifests of build directories that tests make up, as far as their readers look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagekit.domain.facts import BuildFacts
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, Section, manifest_text


def artefact(role: str, path: str, **more: Any) -> Artefact:
    """An artefact of one byte with a digest that nothing has."""
    return Artefact.model_validate(
        {"role": role, "path": path, "sha256": "0" * 64, "bytes": 1, **more}
    )


def below(build: Path, facts: BuildFacts) -> BuildFacts:
    """``facts`` of disks that lie in ``build``, with their paths as a build has them."""
    disks = tuple(
        replace(disk, paths={f: str(Path(p).relative_to(build)) for f, p in disk.paths.items()})
        for disk in facts.disks
    )
    return replace(facts, disks=disks)


def write_manifest(
    build: Path,
    facts: BuildFacts | None = None,
    artefacts: Iterable[Artefact] = (),
    *,
    name: str | None = None,
    **more: Any,
) -> Manifest:
    """Write the manifest of ``build``; its name is that in ``facts``, or ``name``."""
    manifest = Manifest(
        name=name or (facts.name if facts else "guest"),
        facts=Section.model_validate(facts.to_json()) if facts else None,
        artefacts=tuple(artefacts),
        **more,
    )
    (build / MANIFEST).write_text(manifest_text(manifest))
    return manifest
