"""Write the lock of a build: of package files, or of what some installer put there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from imagekit import __version__
from imagekit.errors import VerificationError
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.kernel.report import read_report
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import EpochFrom, Lock, LockedElement, lock_text

TOOLS = ("mmdebstrap", "mke2fs", "sfdisk", "grub-mkimage", "qemu-img", "tar")


def _common(context: BuildContext) -> dict[str, Any]:
    """What every lock depends on."""
    file = context.file
    return {
        "name": file.spec.name,
        "spec": context.image_sha256,
        "epoch": [context.epoch, context.epoch_from],
        "seed": context.seed,
        "tools": lock_tools(),
        "inputs": input_digests(file),
    }


def _times(context: BuildContext, without: int, name: EpochFrom) -> dict[str, Any]:
    """Epoch and seed as a lock has them; ``without`` an epoch another, from ``name``."""
    if context.epoch is None:
        return {"source_date_epoch": without, "epoch_from": name}
    origin = context.epoch_from
    if name == "packages":
        origin = "environment" if origin == "environment" else "packages"
    elif origin == "releases":
        origin = "archive"  # from now on a build has this epoch
    return {
        "source_date_epoch": context.epoch,
        "epoch_from": origin,
        "seed": context.seed or "",
    }


class LockFile(Stage):
    """The lock: packages with digests, Release files, inputs, elements, tools, epoch."""

    name: ClassVar[str] = "lock"
    title: ClassVar[str] = "writing the lock"
    makes = ("lock.yaml",)

    def __init__(
        self,
        context: BuildContext,
        elements: Sequence[LockedElement] = (),
        sources: str = "sources.json",
    ) -> None:
        """``sources`` is the artefact that knows where the packages came from."""
        self.needs = (sources, "release")
        self._context = context
        self._file = context.file
        self._elements = [element.model_dump(mode="json") for element in elements]

    def key(self) -> Mapping[str, Any]:
        return {
            **_common(self._context),
            **({"elements": self._elements} if self._elements else {}),
        }

    def run(self, run: StageRun) -> None:
        sources = json.loads(run.inputs[self.needs[0]].read_text())
        dates = [r["date"] for r in sources["releases"]]
        lock = Lock.model_validate(
            {
                "name": self._file.spec.name,
                "spec_sha256": self._context.image_sha256,
                "method": self._file.spec.install.method,
                **_times(self._context, max(dates, default=0), "releases"),
                "kernel": run.inputs["release"].read_text(),
                "keyring_sha256": sources["keyring_sha256"],
                "sources": sources["sources"],
                "releases": sources["releases"],
                "inputs": input_digests(self._file),
                "tools": lock_tools(),
                "elements": self._elements,
                "packages": sources["packages"],
            }
        )
        (run.output / "lock.yaml").write_text(lock_text(lock))


class InstalledLock(Stage):
    """The lock of a tree or disk that was made by an installer, or by elements alone.

    No package file is known, so a locked build is compared with its lock once it is made.
    ``parts`` are the fields that are known from the spec (elements, templates), ``iso`` is the
    artefact of the verified ISO.
    """

    name: ClassVar[str] = "lock"
    title: ClassVar[str] = "writing the lock"
    makes = ("lock.yaml",)

    def __init__(
        self,
        context: BuildContext,
        packages: str,
        parts: Mapping[str, Any],
        *,
        iso: str | None = None,
    ) -> None:
        self._context = context
        self._file = context.file
        self._packages = packages
        self._parts = dict(parts)
        self._iso = iso
        self._lock = context.lock
        self.needs = (packages, "kernel.json", *([iso] if iso else []))

    def key(self) -> Mapping[str, Any]:
        return {
            **_common(self._context),
            "parts": self._parts,
            "lock": lock_text(self._lock) if self._lock else None,
        }

    def run(self, run: StageRun) -> None:
        rows = json.loads(run.inputs[self._packages].read_text())
        iso = digest_file(run.inputs[self._iso]) if self._iso else None
        made = Lock.model_validate(
            {
                "name": self._file.spec.name,
                "spec_sha256": self._context.image_sha256,
                "method": self._file.spec.install.method,
                **_times(self._context, 0, "packages"),
                "kernel": read_report(run.inputs["kernel.json"]).release,
                "iso_sha256": iso,
                "inputs": input_digests(self._file),
                "tools": lock_tools(),
                **self._parts,
                "installed": sorted(rows, key=lambda r: (r["name"], r["version"])),
            }
        )
        if self._lock is not None:
            require_installed(self._lock, made)
        (run.output / "lock.yaml").write_text(lock_text(made))


def require_installed(lock: Lock, made: Lock) -> None:
    """Raise VerificationError naming what is gone or new, unless ``made`` installed the same."""
    then, now = (
        {(p.name, p.version, p.architecture) for p in lock.installed},
        {(p.name, p.version, p.architecture) for p in made.installed},
    )
    if then == now:
        return
    gone = ", ".join(f"{name} {version}" for name, version, _arch in sorted(then - now)[:5])
    new = ", ".join(f"{name} {version}" for name, version, _arch in sorted(now - then)[:5])
    parts = [f"lacks {gone}" if gone else "", f"has {new} instead" if new else ""]
    raise VerificationError(
        f"what was installed is not what the lock names: it {', '.join(p for p in parts if p)}",
        hint="the installer takes what its mirror has now; name a mirror of that time in os.mirror",
    )


def lock_tools() -> dict[str, str]:
    """Versions of what else decides the bytes: imagekit, and the packages of the tools it calls."""
    return {"imagekit": __version__, **tool_versions(list(TOOLS))}


def input_digests(file: SpecFile) -> dict[str, str]:
    """SHA-256 of every file the spec names, by the name it has there; no secrets."""
    spec = file.spec
    names = [*spec.scripts, *(f.source for f in spec.files if f.source)]
    names += [spec.os.keyring] if spec.os.keyring else []
    names += spec.install.inputs()
    return {str(name): digest_file(file.resolve(str(name))) for name in sorted(names)}
