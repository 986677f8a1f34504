"""Gives a bundle's machine back: rebuilds it offline, compares, writes the device, starts it.

Interrupted, it goes on where it was: finished stages are in the store, and a device is written
again from its start.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Literal

from imagekit.disk.extents import sha256_sparse
from imagekit.disk.volume import volume_name
from imagekit.domain.bootpath import domain_for
from imagekit.domain.facts import DiskFacts, facts_of
from imagekit.errors import SpecError, VerificationError
from imagekit.host.outfile import replacing
from imagekit.host.run import run
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.installs.build import build
from imagekit.pipeline.events import Events
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import Workspace, copy_file
from imagekit.recovery.container import check_name
from imagekit.recovery.hostroot import acting_as_root
from imagekit.recovery.origin import OPTIONS, UNVOUCHED, require_origin
from imagekit.recovery.target import (
    VOLUME,
    Wish,
    check_target,
    check_volume,
    disk_size,
    make_target,
    raw_path,
    write_disk,
)
from imagekit.recovery.unpacked import BOOT_ROLES, IMAGE, Bundle, Recipe, missing_secrets
from imagekit.spec.manifest import MANIFEST
from imagekit.toolstacks.registry import emitter_for

REPORT = "reinstall-report.json"
OTHER_DISK = (
    "the lock does not tell the original's identifiers and times: the new disk has the same "
    "packages and files, and may differ from the original's SHA-256"
)


@dataclass
class Report:
    """What a reinstall did, for machines to read; written last, as REPORT in the directory.

    ``acts_as_root`` lists what the bundle brought that acts as root on this host.
    """

    name: str
    bundle: str
    directory: str
    device: str | None = None
    signature: Literal["good", "not checked"] = "not checked"
    acts_as_root: list[str] = field(default_factory=list)
    method: str = "rebuild"
    identical: bool = False
    disks: dict[str, str] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    started: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def steps(bundle: Bundle, wish: Wish) -> list[str]:
    """What :func:`reinstall` would do, one line each; nothing is written."""
    wish = _possible(bundle, wish)
    lines = [f"check every byte of the bundle of {bundle.name}: done"]
    if bundle.origin == "unchecked":
        lines.append(f"STOP: nobody has said whose bundles are taken ({OPTIONS})")
    elif bundle.origin == "anybody":
        lines.append(UNVOUCHED)
    lines += [f"as root: {line}" for line in acting_as_root(bundle, rebuilt=not wish.unpack)]
    if bundle.sealed:
        lines.append(
            "decrypt what is sealed, with --passphrase-file, --age-identity or gpg's secret key"
        )
    for secret in missing_secrets(bundle, list(os.environ)):
        lines.append(f"STOP: the secret {secret} is missing")
    if bundle.recipe is None or wish.unpack:
        lines.append(f"unpack the finished disk into {wish.directory}")
    else:
        count = len(bundle.recipe.lock.packages)
        lines.append(f"install {count} packages of the bundle, without network")
        lines.append(f"build {', '.join(bundle.disks)} in {wish.directory}")
    if bundle.recipe is not None and not wish.unpack and not bundle.recipe.lock.repeats:
        lines.append(OTHER_DISK)
    for path, digest in bundle.disks.items():
        if not wish.unpack or path.endswith(".raw"):
            lines.append(f"compare {path} with the original's SHA-256 {digest}")
    if wish.vg is not None:
        check_volume(bundle, wish)
        size = disk_size(bundle)
        lines.append(f"make the logical volume {wish.vg}/{volume_name(bundle.name)}, {size} bytes")
        lines.append("write the disk to it and read it back")
    if wish.device is not None:
        check_target(bundle, wish)
        lines.append(f"write the disk to {wish.device} and read it back")
    for mode, toolstack, path in _configs(bundle):
        lines.append(f"write {wish.directory / path} ({mode}, {toolstack})")
    if wish.start:
        lines.append("start the domU with xl create")
    return lines


def reinstall(
    bundle: Bundle, source: Path, wish: Wish, events: Events, *, workspace: Workspace
) -> Report:
    """Carry it out; returns the report. Raises VerificationError when nobody vouches for the bundle
    or the result is another disk, SpecError for missing secrets, HostError for a directory that
    others may write to, and what :func:`check_device` and builds raise.
    """
    began = time.monotonic()
    require_origin(bundle.origin, bundle.path)
    wish = _possible(bundle, wish)
    missing = missing_secrets(bundle, list(os.environ))
    if missing and not wish.unpack:
        raise SpecError(
            f"the bundle holds no secrets, and needs {', '.join(missing)}",
            where=str(source),
            hint="env: names are variables of the environment, file: names lie beside the bundle",
        )
    hint = "choose a directory with -o where nobody else may write"
    if wish.directory.exists():
        require_private_path(wish.directory, hint)
    check_volume(bundle, wish)
    check_target(bundle, wish)
    report = _begun(bundle, source, wish, events)
    os.close(make_folder(wish.directory))
    require_private_path(wish.directory, hint)
    if bundle.recipe is None or wish.unpack:
        _unpack(bundle, wish, report)
    else:
        _rebuild(bundle, bundle.recipe, wish, events, report)
    if wish.vg is not None:
        device = make_target(bundle, wish, wish.vg)
        # It is new and ours, whatever its extents held before.
        wish = replace(wish, device=device, force=str(device))
    if wish.device is not None:
        report.device = str(wish.device)
        write_disk(bundle, wish, workspace)
    _write_configs(bundle, wish, report)
    if wish.start:
        _start(bundle, wish)
        report.started = True
    report.seconds = round(time.monotonic() - began, 3)
    part = wish.directory / f".{REPORT}.part"
    part.write_text(json.dumps(asdict(report), indent=2) + "\n")
    part.replace(wish.directory / REPORT)
    # Whoever says it again later must not get the volume overwritten.
    (wish.directory / VOLUME).unlink(missing_ok=True)
    return report


def _begun(bundle: Bundle, source: Path, wish: Wish, events: Events) -> Report:
    """The report of what is about to be done; who is root by it is said before anything is."""
    report = Report(
        *(bundle.name, str(source.absolute()), str(wish.directory.absolute())),
        signature="good" if bundle.origin == "signed" else "not checked",
        acts_as_root=acting_as_root(bundle, rebuilt=not wish.unpack),
        method="unpack" if wish.unpack else "rebuild",
    )
    if bundle.origin != "signed":
        report.notes.append(UNVOUCHED)
        events.emit("note", text=UNVOUCHED)
    for line in report.acts_as_root:
        events.emit("note", text=f"the bundle acts as root: {line}")
    return report


def _possible(bundle: Bundle, wish: Wish) -> Wish:
    """A guest's bundle holds its disk, and nothing to rebuild it from."""
    return replace(wish, unpack=True) if bundle.recipe is None else wish


def _rebuild(bundle: Bundle, recipe: Recipe, wish: Wish, events: Events, report: Report) -> None:
    named = ((entry.partition(":"), value) for entry, value in bundle.secrets.items())
    secrets = {name: value for (kind, _, name), value in named if kind == "env"}
    manifest = build(
        recipe.spec,
        wish.directory,
        events,
        force=wish.overwrite,
        lock=recipe.lock,
        debs=bundle.debs,
        environment={**os.environ, **secrets},
    )
    made = manifest.disk_digests
    report.disks = made
    report.identical = made == bundle.disks
    if report.identical:
        return
    if not recipe.lock.repeats:
        report.notes.append(OTHER_DISK)
        return
    odd = next((p for p in bundle.disks if made.get(p) != bundle.disks[p]), "?")
    tools = manifest.tools or {}
    differ = [f"{t} {v}" for t, v in recipe.lock.tools.items() if tools.get(t, v) != v]
    what = f"{odd} is not the original's, byte by byte"
    hint = f"the original was built with {', '.join(differ)}" if differ else None
    if recipe.lock.epoch_from != "environment":
        # Nobody asked for the same bytes: a script that uses the clock must not stop a recovery.
        why = hint or "a script that uses the clock or random numbers, or btrfs, makes it so"
        report.notes.append(f"{what}, though its packages and files are: {why}")
        return
    raise VerificationError(what, where=str(wish.directory), hint=hint)


def _unpack(bundle: Bundle, wish: Wish, report: Report) -> None:
    packed = bundle.directory / IMAGE
    if not packed.is_file():
        raise SpecError(
            "the bundle holds no finished disk",
            where="--unpack",
            hint="omit --unpack to rebuild it, or make the bundle with --image",
        )
    wish.directory.mkdir(parents=True, exist_ok=True)
    target = raw_path(bundle, wish)
    size = disk_size(bundle)
    digest = bundle.disks.get(target.name, "")
    # An interrupted reinstall may have got this far.
    if not target.is_file() or sha256_sparse(target) != digest:
        with replacing(target, overwrite=wish.overwrite) as part:
            part.chmod(0o600)
            with part.open("r+b") as out, packed.open("rb") as stream:
                for offset, data in _inflated(stream, size):
                    if data.count(0) != len(data):
                        out.seek(offset)
                        out.write(data)
                out.truncate(size)
            if sha256_sparse(part) != digest:
                raise VerificationError("is not the original's disk", where=str(target))
    report.disks = {target.name: digest}
    report.identical = True
    if bundle.about.stripped:
        report.notes.append(
            "the guest's SSH host keys and password hashes were left out of the bundle: it makes "
            "new keys when it boots, and passwords do not work"
        )
    for artefact in bundle.manifest.having(*BOOT_ROLES):
        name = check_name(artefact.path)
        copy_file(bundle.directory / "boot" / name, wish.directory / name, 0o600)


def _inflated(stream: IO[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of a gzip stream, at most ``limit`` bytes of it; bounded memory."""
    unzip = zlib.decompressobj(wbits=31)
    offset = 0
    try:
        while not unzip.eof:
            data = unzip.unconsumed_tail or stream.read(1 << 16)
            if not data:
                raise VerificationError("the packed disk is cut off")
            piece = unzip.decompress(data, 1 << 20)
            if offset + len(piece) > limit:
                raise VerificationError("the packed disk is larger than the original")
            if piece:
                yield offset, piece
            offset += len(piece)
    except zlib.error as error:
        raise VerificationError(f"the packed disk is damaged: {error}") from None


def _start(bundle: Bundle, wish: Wish) -> None:
    ours = [path for _mode, toolstack, path in _configs(bundle) if toolstack == "xl"]
    if not ours:
        raise SpecError("the build has no config for xl", where="--start")
    config = str((wish.directory / ours[0]).absolute())
    run(["xl", "create", "-q", config], timeout=300, what="starting the domU")


def _configs(bundle: Bundle) -> list[tuple[str, str, str]]:
    """Mode, toolstack and name of each config to write."""
    found = []
    for config in bundle.manifest.configs():
        if not config.mode or not config.toolstack:
            raise VerificationError(f"{config.path} is for no mode or toolstack", where=MANIFEST)
        found.append((config.mode, config.toolstack, check_name(config.path)))
    return found


def _write_configs(bundle: Bundle, wish: Wish, report: Report) -> None:
    """The configs, for the device if there is one; a rebuild has written the others already."""
    facts = facts_of(bundle.manifest, f"{MANIFEST} of the bundle")
    located = facts.located(str(wish.directory.absolute()))
    disk = located.disks[0]
    if wish.device is not None:
        disk = DiskFacts({"raw": str(wish.device)}, disk.virtual_size, disk.vdev, disk.readonly)
    elif wish.unpack:
        disk = replace(disk, paths={"raw": str(raw_path(bundle, wish).absolute())})
    located = replace(located, disks=(disk, *located.disks[1:]))
    for mode, toolstack, name in _configs(bundle):
        path = wish.directory / name
        if wish.device is not None or wish.unpack:
            domain = domain_for(located, mode=mode, toolstack=toolstack)  # type: ignore[arg-type]
            part = path.with_name(f".{path.name}.part")
            part.write_text(emitter_for(toolstack).text(domain, located))
            part.chmod(0o600)
            part.replace(path)
        report.configs.append(str(path.absolute()))


def emit_script(bundle: Bundle) -> str:
    """A shell script that writes the bundle's finished disk to a device on a rescue system.

    It needs tar, sha256sum, gzip and dd, and gpg or age for a sealed disk; no Python and no
    imagekit. It takes the packed disk of this bundle and no other, by its digest. Raises
    VerificationError when nobody vouches for the bundle.
    """
    require_origin(bundle.origin, bundle.path)
    member = bundle.image
    if member is None:
        raise SpecError(
            "the bundle holds no finished disk, and a rescue system cannot build one",
            where="--emit-script",
            hint="make the bundle with --image",
        )
    digest = next((d for p, d in bundle.disks.items() if p.endswith(".raw")), "")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise VerificationError("names no digest of its raw disk", where=MANIFEST)
    text = (Path(__file__).parent / "templates/reinstall.sh").read_text()
    seal = Path(member).suffix.removeprefix(".") if member != IMAGE else "none"
    size = str(disk_size(bundle))
    values = {
        "DIGEST": digest,
        "SIZE": size,
        "IMAGE": member,
        "PACKED": digest_file(bundle.directory / member),
        "SEAL": seal,
        "SIGNED": "yes" if bundle.origin == "signed" else "no",
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
