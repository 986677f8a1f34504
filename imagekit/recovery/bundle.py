"""Everything that gives a build back without a network: spec, lock, packages, inputs, configs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from imagekit import __version__
from imagekit.errors import SpecError
from imagekit.host.signing import Sign
from imagekit.installs.mirrors import mirrors_for
from imagekit.installs.stages.answers import template_digests
from imagekit.installs.stages.archive import collect
from imagekit.installs.stages.lockfile import input_digests
from imagekit.installs.stages.trees import pack
from imagekit.pipeline.build_directory import require_own_build
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery.about import About, secrets_of
from imagekit.recovery.container import Member, write_container
from imagekit.recovery.credentials import (
    passwords_of,
    require_no_passwords,
    spec_without_credentials,
)
from imagekit.recovery.sealing import SUFFIXES, Seal, seal
from imagekit.recovery.unpacked import (
    BOOT_ROLES,
    IMAGE,
    MAX_SECRETS,
    SECRETS,
)
from imagekit.spec.derived import source_date_epoch
from imagekit.spec.install import Debootstrap, DiskimageBuilder, Iso, Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock, read_lock
from imagekit.spec.manifest import MANIFEST, Manifest, file_in, read_manifest

Source = tuple[str, Path | bytes]
"""A member's name, and the file or the bytes it is made of."""


def make_bundle(
    build: Path,
    file: SpecFile,
    target: Path,
    *,
    workspace: Workspace,
    sign: Sign | None = None,
    image: bool = False,
    how: Seal | None = None,
    overwrite: bool = False,
) -> list[Member]:
    """Write the bundle ``target`` of the build directory ``build``, made from ``file``.

    ``image`` puts the finished disk in as well, for hosts that cannot build. Secrets are left out,
    but for those that are in the finished disk; with ``how`` they are put in, sealed, and so is the
    finished disk. What an installer of its own made cannot be made again from package files: its
    finished disk goes in always, and is what comes back. Passwords of mirrors and proxies are left
    out of the spec, and said to be; another file that holds one is not packed (SpecError).
    Raises SpecError when both do not belong together, DownloadError for a lost package,
    ExistsError.
    """
    manifest = _manifest_of(build, file)
    lock_file = file_in(build, f"{file.spec.name}.lock")
    lock = read_lock(lock_file)
    inputs, sources = _inputs(file, lock)
    trees, tars = _trees(file, workspace)
    packages = _packages(file, lock, workspace) if lock.packages else []
    sources += [
        *tars,
        *packages,
        ("lock.yaml", lock_file),
        (MANIFEST, file_in(build, MANIFEST)),
        ("spec.yaml", _spec(file, workspace)),
    ]
    sources += [(f"configs/{c.path}", file_in(build, c.path)) for c in manifest.configs()]
    if image or not lock.packages:
        sources += _finished(build, file, manifest, how, workspace)
    if how is not None and secrets_of(file.spec):
        sources.append(_sealed_secrets(file, how, workspace))
    about = About(
        kind="build" if lock.packages else "image",
        name=file.spec.name,
        imagekit=__version__,
        spec_sha256=file.sha256,
        source_date_epoch=lock.source_date_epoch,
        secrets=secrets_of(file.spec),
        disks=manifest.disk_digests,
        inputs=inputs,
        trees=trees,
        sealed=[member for member, _ in sources if member.endswith(SUFFIXES)],
    )
    _refuse_passwords(file, about, sources)
    return write_signed(target, about, sources, sign, workspace=workspace, overwrite=overwrite)


def _sealed_secrets(file: SpecFile, how: Seal, workspace: Workspace) -> tuple[str, Path]:
    values = workspace.temporary("secrets") / SECRETS
    values.touch(mode=0o600)
    values.write_text(json.dumps(_secret_values(file)))
    return maybe_sealed(SECRETS, values, how, workspace)


def _refuse_passwords(file: SpecFile, about: About, sources: Sequence[Source]) -> None:
    called = {member: name for name, member in [*about.inputs.items(), *about.trees.items()]}
    passwords = passwords_of(file)
    require_no_passwords("index.json", json.dumps(about.to_json()).encode(), passwords)
    for member, source in sources:
        require_no_passwords(member, source, passwords, called.get(member, ""))


def _manifest_of(build: Path, file: SpecFile) -> Manifest:
    require_own_build(build)
    manifest = read_manifest(build)
    if manifest.spec_sha256 != file.sha256:
        raise SpecError(
            "the build was not made from this spec",
            where=str(file.path),
            hint="give the same --set as to the build, or build again",
        )
    return manifest


def _inputs(file: SpecFile, lock: Lock) -> tuple[dict[str, str], list[Source]]:
    """Names of members by the spec's names, and the members."""
    inputs: dict[str, str] = {}
    sources: list[Source] = []
    known = {**lock.inputs, **lock.templates}
    digests = input_digests(file)
    install = file.spec.install
    if isinstance(install, Iso | Netboot) and install.template:
        digests |= template_digests(file, install)
    for index, (name, digest) in enumerate(sorted(digests.items())):
        if known.get(name) != digest:
            raise SpecError(f"{name} has changed since the build", where=str(file.path))
        inputs[name] = f"inputs/{index:04d}"
        sources.append((inputs[name], file.resolve(name)))
    return inputs, sources


def _trees(file: SpecFile, workspace: Workspace) -> tuple[dict[str, str], list[Source]]:
    """The same for directories: elements, and a kernel's modules. The members are tar files."""
    install = file.spec.install
    names: list[str] = []
    if isinstance(install, Debootstrap | DiskimageBuilder):
        names += install.element_path
    if isinstance(install, Debootstrap) and install.modules:
        names.append(install.modules)
    trees: dict[str, str] = {}
    sources: list[Source] = []
    for index, name in enumerate(sorted(set(names))):
        target = workspace.temporary("tree") / "tree.tar"
        pack(file.resolve(name), target, epoch=source_date_epoch(os.environ))
        trees[name] = f"trees/{index:04d}.tar"
        sources.append((trees[name], target))
    return trees, sources


def _packages(file: SpecFile, lock: Lock, workspace: Workspace) -> list[Source]:
    debs = workspace.temporary("packages")
    workspace.events.emit("note", text=f"collecting {len(lock.packages)} packages")
    collect(lock, debs, mirrors_for(file), None, _proxy(file), Store().pool)
    return [(f"packages/{p.filename}", debs / p.filename) for p in lock.packages]


def _finished(
    build: Path, file: SpecFile, manifest: Manifest, how: Seal | None, workspace: Workspace
) -> list[Source]:
    """The disk, and what boots it."""
    if secrets_of(file.spec) and how is None:
        text = "the finished disk holds the guest's password hashes: keep the bundle private"
        workspace.events.emit("note", text=text)
    packed = packed_disk(_raw_disk(build, manifest), workspace)
    sources: list[Source] = [maybe_sealed(IMAGE, packed, how, workspace)]
    for artefact in manifest.having(*BOOT_ROLES):
        source = file_in(build, artefact.path)
        sources.append(maybe_sealed(f"boot/{artefact.path}", source, how, workspace))
    return sources


def write_signed(
    target: Path,
    about: About,
    sources: Sequence[Source],
    sign: Sign | None,
    *,
    workspace: Workspace,
    overwrite: bool,
) -> list[Member]:
    """Write the container, signed if there is something to sign with."""
    scratch = workspace.temporary("sign")
    signer = (lambda data: sign(data, scratch)) if sign is not None else None
    return write_container(target, about.to_json(), sources, signer, overwrite=overwrite)


def maybe_sealed(
    name: str, source: Path, how: Seal | None, workspace: Workspace
) -> tuple[str, Path]:
    """A member of the bundle: ``source`` as ``name``, or sealed with another suffix."""
    if how is None:
        return name, source
    target = workspace.temporary("sealed") / f"{source.name}{how.suffix}"
    seal(source, target, how, workspace.temporary("gnupg"))
    return f"{name}{how.suffix}", target


def _proxy(file: SpecFile) -> dict[str, str]:
    proxy = file.spec.os.proxy
    return dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}


def _spec(file: SpecFile, workspace: Workspace) -> bytes:
    text, stripped = spec_without_credentials(file)
    if stripped:
        note = f"passwords were left out of the spec in the bundle: {', '.join(stripped)}"
        workspace.events.emit("note", text=note)
    return text


def _secret_values(file: SpecFile) -> dict[str, str]:
    """The same with their values; raises SpecError for one that is not there."""
    found = {}
    for entry in secrets_of(file.spec):
        kind, _, name = entry.partition(":")
        path = file.resolve(name)
        if kind == "env" and name in os.environ:
            found[entry] = os.environ[name]
        elif kind == "file" and path.is_file() and path.stat().st_size <= MAX_SECRETS:
            found[entry] = path.read_text()
        else:
            raise SpecError(f"the secret {entry} is not there to be sealed", where=str(file.path))
    return found


def _raw_disk(build: Path, manifest: Manifest) -> Path:
    raw = next((disk for disk in manifest.disks if disk.format == "raw"), None)
    if raw is None:
        raise SpecError("the build has no raw disk to put in", where=str(build))
    return file_in(build, raw.path)


def packed_disk(raw: Path, workspace: Workspace) -> Path:
    """``raw`` as a gzip file; equal disks make equal files."""
    target = workspace.temporary("image") / "disk.raw.gz"
    # A fixed time and no name (RFC 1952).
    with (
        raw.open("rb") as source,
        target.open("wb") as stream,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=stream, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)
    return target
