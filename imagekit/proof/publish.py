"""Builds that are proven first and published only when every guest came up."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from imagekit.disk.extents import sha256_sparse
from imagekit.errors import InconclusiveError, ProofError
from imagekit.installs.build import build, plan_for
from imagekit.installs.start import start
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.deliver import plan_digest
from imagekit.pipeline.events import Events
from imagekit.proof.boots import WAITING
from imagekit.proof.prove import DIRECTORY, prove_build
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock
from imagekit.spec.manifest import Manifest

PROVEN = ".imagekit-proven.json"


def waiting_room(out: Path) -> Path:
    """Where a build waits for its proof: beside ``out``, so that nothing need be copied."""
    return out.with_name(f"{WAITING}{out.name}")


def build_proven(  # noqa: PLR0913 - an option of "imagekit build" each
    file: SpecFile,
    out: Path,
    events: Events,
    *,
    fresh: bool = False,
    force: bool = False,
    verify: bool = False,
    under: str = "xen",
    lock: Lock | None = None,
    unique: str = "",
    store_remote: Path | None = None,
) -> Manifest:
    """Build ``file``, boot it in every mode it claims, and only then write ``out``.

    What was in ``out`` before stays until the proof has succeeded. The configs that are proven are
    those of ``out``, byte for byte; the files they name are played by those of the waiting room.
    With ``lock`` exactly its packages are installed; ``unique`` is as for
    :func:`~imagekit.installs.build.build`; with ``verify`` all that was stored and
    delivered is read, and made anew where it is damaged. ``store_remote``: see :func:`build`.
    Raises ProofError or InconclusiveError, and
    then the unproven build with its consoles stays in the waiting room for a look.
    """
    out = out.absolute()

    def planned() -> str:
        return plan_digest(plan_for(start(file, out, os.environ, lock=lock, unique=unique)))

    again = partial(build, file, out, events, lock=lock, unique=unique, store_remote=store_remote)
    digest = planned()
    published = BuildDirectory(out, sha256_sparse)
    if not fresh and _proven(out) == digest and published.intact(digest, verify=verify):
        return again()
    published.refuse_strangers(file.spec.name, force=force)
    room = waiting_room(out)
    build(
        file,
        room,
        events,
        fresh=fresh,
        force=True,
        verify=verify,
        lock=lock,
        unique=unique,
        called=out,
        store_remote=store_remote,
    )
    events.emit("stage-started", stage="prove", title="booting it under Xen", key="")
    try:
        report = prove_build(room, file.spec.proof, events, under=under)
    except (ProofError, InconclusiveError) as error:
        error.hint = f"{error.hint or ''}; the unproven build is in {room}".removeprefix("; ")
        raise
    seconds = round(sum(report.seconds.values()), 3)
    events.emit("stage-finished", stage="prove", cached=False, seconds=seconds, key="")
    kept = room.with_name(f"{room.name}-report")
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    (room / DIRECTORY).rename(kept / DIRECTORY)
    shutil.rmtree(room)
    manifest = build(
        file, out, events, force=force, lock=lock, unique=unique, store_remote=store_remote
    )
    shutil.rmtree(out / DIRECTORY, ignore_errors=True)
    (kept / DIRECTORY).rename(out / DIRECTORY)
    report.moved(room, out).write(out)
    kept.rmdir()
    with BuildDirectory(out).held() as held:
        held.write(PROVEN, json.dumps({"plan": planned()}))
    return manifest


def _proven(out: Path) -> str | None:
    """Digest of the plan whose build in ``out`` was proven."""
    try:
        value = json.loads((out / PROVEN).read_text())
    except (OSError, ValueError):
        return None
    return value.get("plan") if isinstance(value, dict) else None
