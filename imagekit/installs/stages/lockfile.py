"""Writes the lock of a build."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from imagekit.host.versions import tool_versions
from imagekit.installs.locking import Lock, LockedElement, lock_text
from imagekit.installs.stages.trees import source_date_epoch
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.load import SpecFile

TOOLS = ("mmdebstrap", "mke2fs", "sfdisk", "grub-mkimage", "qemu-img", "tar")


class LockFile(Stage):
    """The lock: packages with digests, Release files, inputs, elements, tools, epoch."""

    name: ClassVar[str] = "lock"
    title: ClassVar[str] = "writing the lock"
    needs = ("sources.json", "release")
    makes = ("lock.yaml",)

    def __init__(self, file: SpecFile, elements: Sequence[LockedElement] = ()) -> None:
        self._file = file
        self._elements = [element.model_dump(mode="json") for element in elements]

    def key(self) -> Mapping[str, Any]:
        return {
            "code": 1,
            "name": self._file.spec.name,
            "spec": self._file.sha256,
            "epoch": source_date_epoch(),
            "tools": tool_versions(list(TOOLS)),
            "inputs": input_digests(self._file),
            **({"elements": self._elements} if self._elements else {}),
        }

    def run(self, run: StageRun) -> None:
        sources = json.loads(run.inputs["sources.json"].read_text())
        epoch = source_date_epoch()
        dates = [r["date"] for r in sources["releases"]]
        lock = Lock.model_validate(
            {
                "name": self._file.spec.name,
                "spec_sha256": self._file.sha256,
                "method": self._file.spec.install.method,
                # Without one in the environment builds differ; builds of the lock do not.
                "source_date_epoch": epoch if epoch is not None else max(dates, default=0),
                "epoch_from": "environment" if epoch is not None else "releases",
                "kernel": run.inputs["release"].read_text(),
                "keyring_sha256": sources["keyring_sha256"],
                "sources": sources["sources"],
                "releases": sources["releases"],
                "inputs": input_digests(self._file),
                "tools": tool_versions(list(TOOLS)),
                "elements": self._elements,
                "packages": sources["packages"],
            }
        )
        (run.output / "lock.yaml").write_text(lock_text(lock))


def input_digests(file: SpecFile) -> dict[str, str]:
    """SHA-256 of every file the spec names, by the name it has there; no secrets."""
    spec = file.spec
    install = spec.debootstrap
    names = [*spec.scripts, *(f.source for f in spec.files if f.source)]
    names += [n for n in (install.initrd, spec.os.keyring) if n]
    if install.kernel and "/" in install.kernel:
        names.append(install.kernel)
    return {str(name): digest_file(file.resolve(str(name))) for name in sorted(names)}
