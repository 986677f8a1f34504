"""Builds a spec twice under different circumstances and compares the disks byte by byte."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.layout import read_assembled
from imagekit.errors import ImagekitError, ToolError
from imagekit.host.run import run
from imagekit.locks.difference import Difference, disk_difference, tar_differences
from imagekit.pipeline.workspace import Workspace
from imagekit.spec.load import load_spec
from imagekit.spec.manifest import read_manifest

BUILD_SECONDS = 7200.0
_CHILD = 'umask "$1"; hostname "$2"; shift 2; exec "$@"'
"""Read by sh in a UTS namespace of its own: the host keeps its name."""


@dataclass(frozen=True)
class Circumstances:
    """What must not matter to a build: directory, umask, host name, time zone, locale."""

    directory: str
    umask: str
    hostname: str
    zone: str


FIRST = Circumstances("a", "022", "first-builder", "UTC")
SECOND = Circumstances("second/other directory", "077", "second-builder", "Pacific/Kiritimati")


@dataclass(frozen=True)
class Verdict:
    """``digests`` are those of the first build's disks by path; ``difference`` None when equal."""

    digests: dict[str, str]
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether all disks are the same, byte by byte."""
        return self.difference is None


def verify_reproducible(
    spec: Path, overrides: Sequence[str], epoch: int, *, workspace: Workspace
) -> Verdict:
    """Build ``spec`` from scratch, then again of the first build's lock, and compare.

    ``epoch`` (seconds since 1970) is the SOURCE_DATE_EPOCH of both. Raises what a build raises.
    """
    name = load_spec(spec, overrides).spec.name
    root = workspace.temporary("reproduce")
    options = [word for override in overrides for word in ("--set", override)]
    first = _build(spec, name, options, epoch, root, FIRST, workspace)
    lock = first / f"{name}.lock"
    if lock.is_file():
        options += ["--locked", str(lock)]
    second = _build(spec, name, options, epoch, root, SECOND, workspace)
    digests = [_disks(directory) for directory in (first, second)]
    if digests[0] == digests[1]:
        return Verdict(digests[0], None)
    caches = [root / c.directory / "cache" for c in (FIRST, SECOND)]
    return Verdict(digests[0], _explain(caches, (first, second), digests))


def _build(
    spec: Path,
    name: str,
    options: Sequence[str],
    epoch: int,
    root: Path,
    how: Circumstances,
    space: Workspace,
) -> Path:
    place = root / how.directory
    place.mkdir(parents=True)
    out = place / f"build of {how.hostname}"
    space.events.emit("note", text=f"building {name} as {how.hostname}, umask {how.umask}")
    argv = [sys.executable, "-m", "imagekit", "build", str(spec.absolute()), "-o", str(out)]
    argv += ["--store-remote", "none"]  # or the second build would be a copy of the first one
    try:
        run(
            [
                *("unshare", "--uts", "--", "sh", "-c", _CHILD, "sh", how.umask, how.hostname),
                *(*argv, "--json", *options),
            ],
            env={
                "SOURCE_DATE_EPOCH": str(epoch),
                "IMAGEKIT_CACHE": str(place / "cache"),
                "TZ": how.zone,
            },
            cwd=place,
            timeout=BUILD_SECONDS,
            what=f"the build as {how.hostname}",
        )
    except ToolError as error:
        raise ImagekitError(f"{error.what}\n{error.output.strip()}") from None
    return out


def _disks(build: Path) -> dict[str, str]:
    return read_manifest(build).disk_digests


def _explain(
    caches: Sequence[Path], builds: Sequence[Path], digests: Sequence[dict[str, str]]
) -> Difference:
    """The earliest difference: packages, then the finished tree, then the disk itself."""
    for artefact in ("rootfs.tar", "packages.tar", "tree.tar"):
        pair = [_stored(cache, artefact) for cache in caches]
        if pair[0] is not None and pair[1] is not None:
            found = next(tar_differences(pair[0], pair[1]), None)
            if found is not None:
                return found
    raws = [_stored(cache, "disk.raw") for cache in caches]
    layout = _stored(caches[0], "layout.json")
    if raws[0] is not None and raws[1] is not None and layout is not None:
        parts = read_assembled(layout).layout.parts
        on_disk = disk_difference(raws[0], raws[1], parts)
        if on_disk is not None:
            return on_disk
    odd = next(path for path in digests[0] if digests[0][path] != digests[1].get(path))
    return Difference(odd, "the container", f"differs at byte {_first_byte(builds, odd)}")


def _stored(cache: Path, artefact: str) -> Path | None:
    return next(iter(sorted(cache.glob(f"store/objects/*/{artefact}"))), None)


def _first_byte(builds: Sequence[Path], path: str) -> int:
    with (builds[0] / path).open("rb") as one, (builds[1] / path).open("rb") as two:
        position = 0
        while True:
            left, right = one.read(1 << 20), two.read(1 << 20)
            if left != right or not left:
                same = 0
                for same, (x, y) in enumerate(zip(left, right, strict=False)):
                    if x != y:
                        return position + same
                return position + min(len(left), len(right))
            position += len(left)
