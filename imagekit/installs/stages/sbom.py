"""The software bill of materials of a build: CycloneDX 1.5 (ECMA-424), JSON.

Two builds of the same packages give the same bytes: the serial number follows from the content,
and the only time is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from imagekit import __version__
from imagekit.errors import ImageError
from imagekit.installs.context import BuildContext
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_json
from imagekit.spec.load import SpecFile

NAMESPACE = uuid.UUID("5a0c2f0e-3c3d-5b0f-9a57-2f7d1f8f5c11")
ARTEFACT = "sbom.json"
PURL_TYPES = {"debian": "deb", "ubuntu": "deb", "rhel": "rpm", "fedora": "rpm"}
"""Types of package URLs, https://github.com/package-url/purl-spec."""


def sbom_target(file: SpecFile) -> Target:
    """Where the build directory has it; ``.cdx.json`` is CycloneDX's own file name extension."""
    return Target(ARTEFACT, f"{file.spec.name}.cdx.json", "sbom", fields={"format": "cyclonedx"})


class Sbom(Stage):
    """Every package as a component with its package URL, and its digest where that is known.

    ``packages`` is the artefact that lists them, ``sources`` the one with digests, if there is one.
    """

    name: ClassVar[str] = "sbom"
    title: ClassVar[str] = "writing the bill of materials"
    makes = (ARTEFACT,)

    def __init__(self, context: BuildContext, packages: str, sources: str | None = None) -> None:
        self._file = context.file
        self._epoch = context.epoch
        self._packages = packages
        self._sources = sources
        self.needs = (packages, *([sources] if sources else []))

    def key(self) -> Mapping[str, Any]:
        os_ = self._file.spec.os
        return {
            "guest": [self._file.spec.name, os_.distribution, os_.suite],
            "epoch": self._epoch,
        }

    def run(self, run: StageRun) -> None:
        packages = json.loads(run.inputs[self._packages].read_text())
        known: list[dict[str, Any]] = []
        if self._sources:
            known = json.loads(run.inputs[self._sources].read_text())["packages"]
        value = bill_of_materials(self._file, packages, known, self._epoch)
        (run.output / ARTEFACT).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def bill_of_materials(
    file: SpecFile,
    packages: Sequence[Mapping[str, str]],
    known: Sequence[Mapping[str, Any]],
    epoch: int | None,
) -> dict[str, Any]:
    """The CycloneDX document of ``packages``; ``known`` are a lock's, ``epoch`` is in seconds."""
    # Half a second of imports, which builds from the store need not wait for.
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot5

    os_ = file.spec.os
    digests = {(p["name"], p["version"], p["architecture"]): p["sha256"] for p in known}
    guest = Component(
        name=file.spec.name,
        type=ComponentType.OPERATING_SYSTEM,
        version=os_.suite,
        bom_ref="guest",
        description=f"{os_.distribution} {os_.suite} {os_.arch}",
    )
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, _content(file, packages, known)))
    bom.metadata.component = guest
    bom.metadata.timestamp = datetime.fromtimestamp(epoch or 0, UTC)
    bom.metadata.tools.components.add(
        Component(name="imagekit", type=ComponentType.APPLICATION, version=__version__)
    )
    parts = [
        _component(file, row, digests.get((row["name"], row["version"], row["architecture"])))
        for row in packages
    ]
    bom.components.update(parts)
    bom.register_dependency(guest, parts)
    value: dict[str, Any] = json.loads(JsonV1Dot5(bom).output_as_string())
    if epoch is None:
        del value["metadata"]["timestamp"]
    return value


def _content(
    file: SpecFile, packages: Sequence[Mapping[str, str]], known: Sequence[Mapping[str, Any]]
) -> str:
    os_ = file.spec.os
    digests = sorted(str(p["sha256"]) for p in known)
    rows = sorted([p["name"], p["version"], p["architecture"]] for p in packages)
    return digest_json([file.spec.name, os_.distribution, os_.suite, rows, digests])


def _component(file: SpecFile, row: Mapping[str, str], sha256: str | None) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    os_ = file.spec.os
    qualifiers = {"arch": row["architecture"], "distro": f"{os_.distribution}-{os_.suite}"}
    version = row["version"]
    kind = PURL_TYPES[os_.distribution]
    if kind == "rpm" and ":" in version:
        qualifiers["epoch"], version = version.split(":", 1)
    try:
        purl = PackageURL(kind, os_.distribution, row["name"], version, qualifiers)
    except ValueError:
        raise ImageError(f"{row['name']!r} {version!r} is no package") from None
    return Component(
        name=row["name"],
        version=row["version"],
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
    )
