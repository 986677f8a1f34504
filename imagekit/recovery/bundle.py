"""Everything that gives a build back without a network: spec, lock, packages, inputs, configs."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from imagekit import __version__
from imagekit.errors import SpecError, VerificationError
from imagekit.installs.locking import Lock, read_lock
from imagekit.installs.stages.archive import collect
from imagekit.installs.stages.lockfile import input_digests
from imagekit.installs.stages.mirrors import mirrors_for
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery.container import Checked, Member, read_container, write_container
from imagekit.recovery.signing import Sign, check_signature
from imagekit.spec.load import SpecFile, load_spec

FORMAT = 1
IMAGE = "image/disk.raw.gz"
BOOT_ROLES = ("kernel", "initrd")


@dataclass(frozen=True)
class BundledSpec(SpecFile):
    """A spec whose files lie in an unpacked bundle; what is not there is looked for beside it."""

    inputs: dict[str, Path]

    def resolve(self, name: str) -> Path:
        """The file the spec calls ``name``."""
        return self.inputs.get(name) or super().resolve(name)


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle: ``manifest`` is that of the original build."""

    directory: Path
    about: dict[str, Any]
    manifest: dict[str, Any]
    spec: BundledSpec
    lock: Lock

    @property
    def debs(self) -> Path:
        """The directory of the packages."""
        return self.directory / "packages"

    @property
    def disks(self) -> dict[str, str]:
        """SHA-256 of the original build's disks by path."""
        artefacts = self.manifest["artefacts"]
        return {a["path"]: a["sha256"] for a in artefacts if a["role"] == "disk"}


def make_bundle(
    build: Path,
    file: SpecFile,
    target: Path,
    *,
    workspace: Workspace,
    sign: Sign | None = None,
    image: bool = False,
    overwrite: bool = False,
) -> list[Member]:
    """Write the bundle ``target`` of the build directory ``build``, made from ``file``.

    ``image`` puts the finished disk in as well, for hosts that cannot build. Secrets are left out,
    but for those that are in the finished disk.
    Raises SpecError when spec and build do not belong together, DownloadError when a package is
    gone, ExistsError.
    """
    manifest = _manifest(build)
    name = file.spec.name
    if manifest.get("spec_sha256") != file.sha256:
        raise SpecError(
            "the build was not made from this spec",
            where=str(file.path),
            hint="give the same --set as to the build, or build again",
        )
    lock = read_lock(build / f"{name}.lock")
    debs = workspace.temporary("packages")
    workspace.events.emit("note", text=f"collecting {len(lock.packages)} packages")
    collect(lock, debs, mirrors_for(file), None, _proxy(file))
    sources: list[tuple[str, Path | bytes]] = [
        (f"packages/{p.filename}", debs / p.filename) for p in lock.packages
    ]
    inputs = {}
    for index, (input_name, digest) in enumerate(sorted(input_digests(file).items())):
        if lock.inputs.get(input_name) != digest:
            raise SpecError(f"{input_name} has changed since the build", where=str(file.path))
        inputs[input_name] = f"inputs/{index:04d}"
        sources.append((inputs[input_name], file.resolve(input_name)))
    sources += [
        ("lock.yaml", build / f"{name}.lock"),
        ("manifest.json", build / "manifest.json"),
        ("spec.yaml", spec_text(file)),
    ]
    for artefact in manifest["artefacts"]:
        if artefact["role"] == "domain-config":
            sources.append((f"configs/{artefact['path']}", build / artefact["path"]))
    if image:
        if _secrets(file):
            text = "the finished disk holds the guest's password hashes: keep the bundle private"
            workspace.events.emit("note", text=text)
        sources.append((IMAGE, _image(build, manifest, workspace)))
        for artefact in manifest["artefacts"]:
            if artefact["role"] in BOOT_ROLES:
                sources.append((f"boot/{artefact['path']}", build / artefact["path"]))
    about = {
        "bundle": FORMAT,
        "name": name,
        "imagekit": __version__,
        "spec_sha256": file.sha256,
        "source_date_epoch": lock.source_date_epoch,
        "inputs": inputs,
        "secrets": _secrets(file),
        "disks": {a["path"]: a["sha256"] for a in manifest["artefacts"] if a["role"] == "disk"},
    }
    scratch = workspace.temporary("sign")
    signer = (lambda data: sign(data, scratch)) if sign is not None else None
    return write_container(target, about, sources, signer, overwrite=overwrite)


def _proxy(file: SpecFile) -> dict[str, str]:
    proxy = file.spec.os.proxy
    return dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}


def _manifest(build: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads((build / "manifest.json").read_bytes()[: 16 << 20])
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("artefacts"), list):
        raise SpecError("holds no build", where=str(build), hint="name what imagekit build made")
    return value


def spec_text(file: SpecFile) -> bytes:
    """The spec with its overrides, as it loads to the same again; without a proxy's password."""
    stream = io.BytesIO()
    YAML(typ="rt", pure=True).dump(_without_proxy(file.tree), stream)
    return stream.getvalue()


def _without_proxy(tree: Any) -> Any:
    if isinstance(tree.get("os"), dict) and "proxy" in tree["os"]:
        import copy

        tree = copy.deepcopy(tree)
        del tree["os"]["proxy"]
    return tree


def _secrets(file: SpecFile) -> list[str]:
    """Names of the secrets that reinstalling needs: env:NAME or file:NAME."""
    identity = file.spec.identity
    found = [identity.root_password, *(u.password for u in identity.users)]
    return sorted({f"env:{s.env}" if s.env else f"file:{s.file}" for s in found if s is not None})


def _image(build: Path, manifest: dict[str, Any], workspace: Workspace) -> Path:
    raw = next(
        (a for a in manifest["artefacts"] if a["role"] == "disk" and a.get("format") == "raw"), None
    )
    if raw is None:
        raise SpecError("the build has no raw disk to put in", where=str(build))
    target = workspace.temporary("image") / "disk.raw.gz"
    # A fixed time and no name, so that equal disks make equal members (RFC 1952).
    with (
        (build / raw["path"]).open("rb") as source,
        target.open("wb") as stream,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=stream, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)
    return target


def verify_bundle(path: Path, trust: Path | None, scratch: Path) -> Checked:
    """Check every byte of ``path``, and its signature if ``trust`` names keys.

    Raises VerificationError for a damaged bundle, a wrong signature, or none where ``trust`` asks.
    """
    checked = read_container(path)
    _check_trust(checked, trust, path, scratch)
    return checked


def _check_trust(checked: Checked, trust: Path | None, path: Path, scratch: Path) -> None:
    if trust is None:
        return
    if checked.signature is None:
        raise VerificationError("is not signed", where=str(path))
    check_signature(checked.sums, checked.signature, trust, scratch)


def open_bundle(path: Path, trust: Path | None, *, workspace: Workspace) -> Bundle:
    """Check and unpack ``path``; raises VerificationError, SpecError."""
    directory = workspace.temporary("bundle", size_bytes=path.stat().st_size)
    checked = read_container(path, directory)
    _check_trust(checked, trust, path, workspace.temporary("trust"))
    about = checked.about
    if about.get("bundle") != FORMAT:
        raise VerificationError(f"is a bundle of the unknown form {about.get('bundle')!r}")
    lock = read_lock(directory / "lock.yaml")
    loaded = load_spec(directory / "spec.yaml")
    inputs = {str(k): directory / str(v) for k, v in dict(about.get("inputs", {})).items()}
    for name, file in inputs.items():
        if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
            raise VerificationError(f"names {name}, which it does not hold", where=str(path))
        if digest_file(file) != lock.inputs.get(name):
            raise VerificationError(f"{name} is not what the lock names", where=str(path))
    # Secrets are looked for beside the bundle.
    spec = BundledSpec(
        loaded.spec, path.absolute().parent / "spec.yaml", loaded.sha256, loaded.tree, inputs
    )
    if loaded.sha256 != lock.spec_sha256:
        raise SpecError(
            "the bundle was made by another version of imagekit, which read the spec differently",
            where=str(path),
            hint=f"use imagekit {about.get('imagekit')}",
        )
    return Bundle(directory, about, _manifest(directory), spec, lock)


def missing_secrets(bundle: Bundle, environment: Sequence[str]) -> list[str]:
    """Secrets the spec needs that are neither in the environment nor beside the bundle."""
    missing = []
    for entry in bundle.about.get("secrets", []):
        kind, _, name = str(entry).partition(":")
        there = name in environment if kind == "env" else bundle.spec.resolve(name).is_file()
        if not there:
            missing.append(str(entry))
    return missing
