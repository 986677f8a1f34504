"""Puts the results of a plan into the build directory, with a manifest, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import BusyError, ExistsError, HostError, ImagekitError, SpecError
from imagekit.host.signing import SIGNATURES, SUMS
from imagekit.pipeline.execute import StageResult
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import Target, digest_file, digest_json
from imagekit.pipeline.store import fingerprint
from imagekit.pipeline.workspace import cache_root
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, manifest_text, read_manifest

STATE = ".imagekit-state.json"
Copy = Callable[[Path, Path], None]


@dataclass(frozen=True)
class BuildDirectory:
    """The directory of a build: what is in it, and whether it may be written to."""

    path: Path

    def manifest(self) -> Manifest | None:
        """The manifest, or None when there is none that can be read."""
        try:
            return read_manifest(self.path)
        except SpecError:
            return None

    def state(self) -> dict[str, Any]:
        """What the last delivery left here (paths, sizes, times), empty when nothing is known."""
        return _json(self.path / STATE) or {}

    def refuse_strangers(self, name: str, *, force: bool) -> None:
        """Raise ExistsError when writing here would overwrite what no build of ``name`` made."""
        if not self.path.exists() or force:
            return
        if not self.path.is_dir():
            raise ExistsError(f"{self.path} exists and is not a directory")
        contents = [p for p in self.path.iterdir() if not p.name.startswith(".imagekit-")]
        if not contents:
            return
        manifest, state = self.manifest(), self.state()
        owner = manifest.name if manifest else state.get("name")
        if owner is None:
            raise ExistsError(
                f"{self.path} is not empty and is not a build directory",
                hint="choose another directory with -o, or pass --force",
            )
        if owner != name:
            raise ExistsError(
                f"{self.path} holds the build of {owner}",
                hint="choose another directory with -o, or pass --force",
            )
        for relative, known in state.get("fingerprints", {}).items():
            path = self.path / relative
            if not state.get("delivering") and path.exists() and fingerprint(path) != known:
                raise ExistsError(
                    f"{path} was changed since it was built",
                    hint="keep it and choose another directory with -o, or pass --force",
                )

    def intact(self, plan_digest: str) -> bool:
        """Whether everything of the plan was delivered here and is untouched since."""
        state = self.state()
        if state.get("delivering") or state.get("plan") != plan_digest:
            return False
        try:
            return all(
                fingerprint(self.path / name) == known
                for name, known in state["fingerprints"].items()
            )
        except (OSError, KeyError):
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second build; raises BusyError at once."""
        locks = cache_root() / "locks"
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = hashlib.sha256(os.fsencode(self.path.absolute())).hexdigest()[:32]
        fd = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BusyError(f"another build is writing to {self.path}") from None
            yield
        finally:
            os.close(fd)


def plan_digest(plan: Plan) -> str:
    """Digest of all keys and targets: equal means that a build would give the same again."""
    return digest_json(
        [
            [p.key for p in plan.stages],
            [[t.artefact, t.path, t.role, t.mode, dict(t.fields)] for t in plan.targets],
        ]
    )


def deliver(
    plan: Plan,
    results: Mapping[str, StageResult],
    directory: BuildDirectory,
    manifest: Manifest,
    copy: Copy,
    instead: Mapping[str, str] | None = None,
) -> Manifest:
    """Copy the targets and logs into ``directory`` and write the manifest; returns it.

    ``manifest`` is all of it but the artefacts. ``instead`` has texts to deliver in place of stored
    artefacts, by name: what can be said of a build only once all of it is made.

    Files are copied beside their names first; only when all are whole they are renamed, then
    files of an earlier build that are no longer made are removed, and the manifest comes last.
    """
    root = directory.path
    old = directory.state().get("fingerprints", {})
    made_root = not root.exists()
    parts: list[tuple[Path, Path]] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        artefacts = _copy_all(plan, results, root, copy, parts, instead or {})
        manifest = manifest.model_copy(update={"artefacts": artefacts})
        _write(root / STATE, {"name": manifest.name, "delivering": True, "fingerprints": {}})
        for part, final in parts:
            part.replace(final)
        final_names = {a.path for a in artefacts}
        for name in set(old) - final_names - {MANIFEST, SUMS}:
            with contextlib.suppress(OSError):
                (root / name).unlink()
        _put_manifest(root, manifest)
        names = (*sorted(final_names), MANIFEST, SUMS)
        prints = {name: fingerprint(root / name) for name in names}
        _write(
            root / STATE,
            {"name": manifest.name, "plan": plan_digest(plan), "fingerprints": prints},
        )
        return manifest
    except BaseException as error:
        for part, _final in parts:
            with contextlib.suppress(OSError):
                part.unlink()
        if made_root:
            _remove_if_empty(root)
        if isinstance(error, OSError):
            raise HostError(
                "no space left in the build directory"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else f"cannot write: {error.strerror}",
                where=str(error.filename or root),
                hint="choose another directory with -o",
            ) from error
        raise


def rewrite_manifest(directory: BuildDirectory, manifest: Manifest) -> None:
    """Replace the manifest of a build whose artefacts stay as they are."""
    _put_manifest(directory.path, manifest)
    state = directory.state()
    if "fingerprints" in state:
        for name in (MANIFEST, SUMS):
            state["fingerprints"][name] = fingerprint(directory.path / name)
        _write(directory.path / STATE, state)


def _put_manifest(root: Path, manifest: Manifest) -> None:
    """Write manifest and SHA256SUMS; a signature of what SHA256SUMS was goes."""
    text = manifest_text(manifest)
    rows = {a.path: a.sha256 for a in manifest.artefacts}
    rows[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
    sums = "".join(f"{rows[name]}  {name}\n" for name in sorted(rows))
    for name in SIGNATURES:
        (root / name).unlink(missing_ok=True)
    for name, content in ((SUMS, sums), (MANIFEST, text)):
        part = root / f".imagekit-{name}"
        part.write_text(content)
        part.replace(root / name)


def _copy_all(
    plan: Plan,
    results: Mapping[str, StageResult],
    root: Path,
    copy: Copy,
    parts: list[tuple[Path, Path]],
    instead: Mapping[str, str],
) -> tuple[Artefact, ...]:
    jobs: list[tuple[Target, Path, str | None]] = []
    for target in plan.targets:
        result = results[plan.maker(target.artefact).stage.name]
        source = result.entry.files[target.artefact]
        known = None if target.artefact in instead else result.entry.sha256.get(target.artefact)
        jobs.append((target, source, known))
    for name, result in results.items():
        for log in sorted((result.entry.directory / "logs").glob("*")):
            path = f"logs/{name}-{log.name}"
            jobs.append((Target(log.name, path, "log", 0o600, {"stage": name}), log, None))
    for target, _source, _sha in jobs:
        final = root / target.path
        if root.resolve() not in (final.parent / "x").resolve().parents:
            raise ImagekitError(f"{target.path} would leave the build directory")
        final.parent.mkdir(parents=True, exist_ok=True)
        parts.append((final.with_name(f".imagekit-{final.name}.part"), final))

    def one(index: int) -> Artefact:
        target, source, sha256 = jobs[index]
        part = parts[index][0]
        part.unlink(missing_ok=True)
        if target.artefact in instead:
            part.write_text(instead[target.artefact])
        elif not (target.role == "disk" and _linked(source, part)):
            copy(source, part)
        part.chmod(target.mode)
        made = {"sha256": sha256 or digest_file(part), "bytes": part.stat().st_size}
        return Artefact.model_validate(
            {"role": target.role, "path": target.path, **target.fields, **made}
        )

    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(one, range(len(jobs))))


def _linked(source: Path, part: Path) -> bool:
    """Deliver a stored disk without copying it, to one build directory at most.

    A guest that writes to its disk then changes the stored result as well; the store notices by
    the time of change and makes it anew. A second directory must not share it, so it gets a copy.
    """
    try:
        if source.stat().st_nlink != 1:
            return False
        part.hardlink_to(source)
        if source.stat().st_nlink == 2:
            return True
        part.unlink()  # another build linked it in the same moment
    except OSError:
        part.unlink(missing_ok=True)
    return False


def _remove_if_empty(root: Path) -> None:
    with contextlib.suppress(OSError):
        for sub in root.iterdir():
            if sub.is_dir():
                sub.rmdir()
        root.rmdir()


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, value: Any) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value))
    part.replace(path)
