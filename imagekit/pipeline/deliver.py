"""Puts the results of a plan into the build directory, with a manifest, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, ImagekitError
from imagekit.host.opening import Held, open_at
from imagekit.host.signing import SIGNATURES, SUMS
from imagekit.pipeline.build_directory import OURS, STATE, BuildDirectory, is_plain
from imagekit.pipeline.execute import StageResult
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.record import StoredFile, marks, note
from imagekit.pipeline.stage import Target, digest_file, digest_json
from imagekit.pipeline.store import Copy
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, manifest_text


@dataclass(frozen=True)
class _Part:
    """A file that is written beside its name, in an open directory below the build's."""

    folder: Held
    final: str

    @property
    def name(self) -> str:
        """What it is called until it is whole."""
        return f"{OURS}{self.final}.part"

    def publish(self) -> None:
        """Give it its name."""
        fd = self.folder.fd
        os.rename(self.name, self.final, src_dir_fd=fd, dst_dir_fd=fd)

    def write(self, text: str) -> None:
        """Make it of ``text``."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.name, flags, 0o600, dir_fd=self.folder.fd), "wb") as stream:
            stream.write(text.encode())


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
    made_root = not directory.path.exists()
    parts: list[_Part] = []
    try:
        old = directory.state().get("fingerprints", {})
        with directory.held(make=True) as root, contextlib.ExitStack() as folders:
            try:
                artefacts = _copy_all(plan, results, _Folders(root, folders), copy, parts, instead)
                manifest = manifest.model_copy(update={"artefacts": artefacts})
                _publish(root, manifest, plan, parts, old)
                _seal_linked(root, plan, results, artefacts)
            except BaseException:
                for part in parts:
                    part.folder.remove(part.name)
                if made_root:
                    _remove_if_empty(root, directory.path)
                raise
        return manifest
    except OSError as error:
        raise HostError(
            "no space left in the build directory"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else f"cannot write: {error.strerror}",
            where=_named(str(error.filename or ""), parts, directory.path),
            hint="choose another directory with -o",
        ) from error
    except ImagekitError as error:
        error.where = error.where and _named(error.where, parts, directory.path)
        raise


def _named(name: str, parts: list[_Part], root: Path) -> str:
    """``name`` as the user knows it: parts are written by way of open directories."""
    if name.startswith("/") and not name.startswith("/proc/self/fd/"):
        return name
    last = Path(name).name
    return str(root / next((p.final for p in parts if p.name == last), last))


def _publish(
    root: Held, manifest: Manifest, plan: Plan, parts: list[_Part], old: Mapping[str, object]
) -> None:
    name = manifest.name
    _write(root, {"name": name, "delivering": True, "fingerprints": {}})
    for part in parts:
        part.publish()
    final_names = {a.path for a in manifest.artefacts}
    for gone in set(old) - final_names - {MANIFEST, SUMS}:
        with contextlib.suppress(OSError):
            root.remove(gone)
    digests = {a.path: a.sha256 for a in manifest.artefacts} | _put_manifest(root, manifest)
    prints = {name: marks(root.status(name)) for name in sorted(digests)}
    state = {"name": name, "plan": plan_digest(plan), "fingerprints": prints, "sha256": digests}
    _write(root, state)


def _seal_linked(
    root: Held, plan: Plan, results: Mapping[str, StageResult], artefacts: Sequence[Artefact]
) -> None:
    """Tell the store that it was delivering which changed the inodes of linked disks."""
    for target, artefact in zip(plan.targets, artefacts, strict=False):
        entry = results[plan.maker(target.artefact).stage.name].entry
        stored = entry.files[target.artefact].lstat()
        made = root.status(artefact.path)
        if (stored.st_dev, stored.st_ino) == (made.st_dev, made.st_ino):
            sealed = StoredFile.of(stored, artefact.sha256)
            note(entry.directory, {target.artefact: sealed})


def rewrite_manifest(directory: BuildDirectory, manifest: Manifest) -> None:
    """Replace the manifest of a build whose artefacts stay as they are."""
    state = directory.state()
    with directory.held() as root:
        written = _put_manifest(root, manifest)
        if "fingerprints" in state:
            for name in written:
                state["fingerprints"][name] = marks(root.status(name))
            state["sha256"] = {**state.get("sha256", {}), **written}
            _write(root, state)


def _put_manifest(root: Held, manifest: Manifest) -> dict[str, str]:
    """Write manifest and SHA256SUMS; a signature of what SHA256SUMS was goes. Returns digests."""
    text = manifest_text(manifest)
    rows = {a.path: a.sha256 for a in manifest.artefacts}
    rows[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
    sums = "".join(f"{rows[name]}  {name}\n" for name in sorted(rows))
    for name in SIGNATURES:
        root.remove(name)
    written = {SUMS: sums, MANIFEST: text}
    for name, content in written.items():
        root.write(name, content)
    return {name: hashlib.sha256(t.encode()).hexdigest() for name, t in written.items()}


class _Folders:
    """The open directories below a build's, made when they are asked for."""

    def __init__(self, root: Held, stack: contextlib.ExitStack) -> None:
        self._root = root
        self._stack = stack
        self._known: dict[str, Held] = {}

    def part(self, path: str) -> _Part:
        """Where the artefact ``path`` is written; raises ImagekitError for a path that leaves."""
        if not is_plain(path):
            raise ImagekitError(f"{path} would leave the build directory")
        parent, name = str(Path(path).parent), Path(path).name
        if parent not in self._known:
            self._known[parent] = self._root.folder(parent, make=True)
            self._stack.callback(self._known[parent].close)
        return _Part(self._known[parent], name)


def _copy_all(
    plan: Plan,
    results: Mapping[str, StageResult],
    folders: _Folders,
    copy: Copy,
    parts: list[_Part],
    instead: Mapping[str, str] | None,
) -> tuple[Artefact, ...]:
    jobs: list[tuple[Target, Path, str | None]] = []
    for target in plan.targets:
        result = results[plan.maker(target.artefact).stage.name]
        source = result.entry.files[target.artefact]
        known = (
            None if target.artefact in (instead or {}) else result.entry.sha256.get(target.artefact)
        )
        jobs.append((target, source, known))
    for name, result in results.items():
        for log in sorted((result.entry.directory / "logs").glob("*")):
            path = f"logs/{name}-{log.name}"
            jobs.append((Target(log.name, path, "log", 0o600, {"stage": name}), log, None))
    parts += [folders.part(target.path) for target, _source, _sha in jobs]
    texts = instead or {}

    def one(index: int) -> Artefact:
        target, source, sha256 = jobs[index]
        part = parts[index]
        part.folder.remove(part.name)  # of a build that was killed
        path = part.folder.path(part.name)
        is_linked = target.role == "disk" and target.artefact not in texts and _linked(source, path)
        if target.artefact in texts:
            part.write(texts[target.artefact])
        elif not is_linked:
            copy(source, path)
        digest, size = _finished(part, target.mode, sha256, links=2 if is_linked else 1)
        made = {"sha256": digest, "bytes": size}
        return Artefact.model_validate(
            {"role": target.role, "path": target.path, **target.fields, **made}
        )

    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(one, range(len(jobs))))


def _finished(part: _Part, mode: int, sha256: str | None, *, links: int) -> tuple[str, int]:
    """Set the mode of what was written; its digest, unless it is known, and its size in bytes."""
    fd = open_at(part.folder.fd, part.name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > links:
            raise HostError("another file was put in its place", where=part.final)
        os.fchmod(fd, mode)
        return sha256 or digest_file(Path(f"/proc/self/fd/{fd}")), status.st_size
    finally:
        os.close(fd)


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


def _remove_if_empty(root: Held, path: Path) -> None:
    with contextlib.suppress(OSError):
        for name in root.names():
            with contextlib.suppress(NotADirectoryError):
                os.rmdir(name, dir_fd=root.fd)
        path.rmdir()


def _write(root: Held, value: object) -> None:
    root.write(STATE, json.dumps(value))
