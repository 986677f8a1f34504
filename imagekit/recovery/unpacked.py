"""A bundle that was checked and unpacked: what is in it, and what it needs to give a guest back."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from imagekit.errors import SpecError, VerificationError
from imagekit.pipeline.stage import digest_file, digest_json
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery.about import About, read_about, secrets_of
from imagekit.recovery.container import Checked, check_name, read_container
from imagekit.recovery.origin import Origin, check_origin, require_origin
from imagekit.recovery.sealing import SUFFIXES, Unlock, unseal
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.lock import Lock, read_lock
from imagekit.spec.manifest import Manifest, read_manifest

IMAGE = "image/disk.raw.gz"
SECRETS = "secrets.json"
BOOT_ROLES = ("kernel", "initrd", "seed")
MAX_SECRETS = 1 << 20
MAX_TAR_READ = 64 << 10
"""Bytes of an extended tar header, and of one step of copying a member."""


@dataclass(frozen=True)
class BundledSpec(SpecFile):
    """A spec whose files lie in an unpacked bundle; secrets alone may lie beside the bundle."""

    inputs: dict[str, Path]

    def resolve(self, name: str) -> Path:
        """The file or directory the spec calls ``name``; VerificationError if it is not there."""
        if name in self.inputs:
            return self.inputs[name]
        if f"file:{name}" not in secrets_of(self.spec):
            raise VerificationError(
                f"the spec names {name}, which the bundle does not hold", where=str(self.base)
            )
        return super().resolve(name)


@dataclass(frozen=True)
class Recipe:
    """What rebuilds a bundle's machine."""

    spec: BundledSpec
    lock: Lock


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle: ``manifest`` is that of the original build, or of the guest.

    ``recipe`` is None for a guest's bundle, and for what an installer of its own made: its disk is
    in there as it was. ``secrets`` are those that were unsealed, by the names ``about`` has them
    under. ``origin`` is who vouches for the bundle in the file ``path``.
    """

    path: Path
    origin: Origin
    directory: Path
    about: About
    manifest: Manifest
    recipe: Recipe | None
    secrets: Mapping[str, str]

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.manifest.name

    @property
    def debs(self) -> Path:
        """The directory of the packages."""
        return self.directory / "packages"

    @property
    def identity(self) -> str:
        """The same for two bundles of the same machine."""
        return self.recipe.lock.digest if self.recipe else digest_json(self.disks)

    @property
    def sealed(self) -> bool:
        """Whether a part of it needs a key."""
        return bool(self.about.sealed)

    @property
    def image(self) -> str | None:
        """The member with the finished disk, sealed or not; None when there is none."""
        for name in (IMAGE, *(IMAGE + suffix for suffix in SUFFIXES)):
            if (self.directory / name).is_file():
                return name
        return None

    @property
    def disks(self) -> dict[str, str]:
        """SHA-256 of the original build's disks by path."""
        return self.manifest.disk_digests


def verify_bundle(path: Path, trust: Path | None, scratch: Path) -> Checked:
    """Check every byte of ``path``, and its signature if ``trust`` names keys.

    Raises VerificationError for a damaged bundle, a wrong signature, or none where ``trust`` asks.
    """
    checked = read_container(path)
    check_origin(checked, path, trust, scratch)
    return checked


def open_bundle(
    path: Path,
    trust: Path | None,
    *,
    workspace: Workspace,
    keys: Unlock | None = None,
    insecure_unsigned: bool = False,
) -> Bundle:
    """Check and unpack ``path``; raises VerificationError, SpecError.

    What is sealed is unsealed with ``keys``; without, it is left as it is. ``trust`` names the keys
    of those whose bundles are taken, ``insecure_unsigned`` takes anybody's. With neither a bundle
    can be looked at, no more: nothing of it is unsealed, and ``reinstall`` refuses it.
    """
    directory = workspace.temporary("bundle", size_bytes=path.stat().st_size)
    checked = read_container(path, directory)
    scratch = workspace.temporary("trust")
    origin = check_origin(checked, path, trust, scratch, anybody=insecure_unsigned)
    if keys is not None:
        require_origin(origin, path)
    about = read_about(checked.about, path)
    secrets: dict[str, str] = {}
    if keys is not None and about.sealed:
        for name in dict.fromkeys(about.sealed):
            source = directory / check_name(name)
            target = source.with_suffix("")
            if source.suffix not in SUFFIXES or not source.is_file() or target.exists():
                raise VerificationError(f"names {name}, which it does not hold", where=str(path))
            unseal(source, target, keys, workspace.temporary("gnupg"))
            source.unlink()
        secrets = _unsealed(directory / SECRETS)
    manifest = read_manifest(directory)
    if about.kind in ("guest", "image"):
        return Bundle(path, origin, directory, about, manifest, None, secrets)
    recipe = _recipe(path, directory, about, secrets)
    return Bundle(path, origin, directory, about, manifest, recipe, secrets)


def _unsealed(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes()[:MAX_SECRETS])
        return {str(k): str(v) for k, v in dict(value).items()}
    except (ValueError, TypeError, RecursionError):
        raise VerificationError("holds no secrets that can be read", where=path.name) from None


def _recipe(path: Path, directory: Path, about: About, secrets: Mapping[str, str]) -> Recipe:
    lock = read_lock(directory / "lock.yaml")
    loaded = load_spec(directory / "spec.yaml")
    inputs = {name: directory / member for name, member in about.inputs.items()}
    for name, file in inputs.items():
        if not file.resolve().is_relative_to(directory.resolve()) or not file.is_file():
            raise VerificationError(f"names {name}, which it does not hold", where=str(path))
        if digest_file(file) != lock.inputs.get(name):
            raise VerificationError(f"{name} is not what the lock names", where=str(path))
    for name, member in about.trees.items():
        inputs[name] = unpack_tree(directory, member)
    for index, entry in enumerate(sorted(secrets)):
        kind, _, name = entry.partition(":")
        if entry not in secrets_of(loaded.spec):
            raise VerificationError(
                f"holds the secret {entry[:100]!r}, for which the spec has no use", where=str(path)
            )
        if kind == "file":
            inputs[name] = directory / f".secret-{index}"
            inputs[name].touch(mode=0o600, exist_ok=False)
            inputs[name].write_text(secrets[entry])
    # Secrets that are not in it are looked for beside the bundle.
    spec = BundledSpec(
        loaded.spec, path.absolute().parent / "spec.yaml", loaded.sha256, loaded.tree, inputs
    )
    if not loaded.fits(lock.spec_sha256):
        raise SpecError(
            "the bundle was made by another version of imagekit, which read the spec differently",
            where=str(path),
            hint=f"use imagekit {about.imagekit}",
        )
    return Recipe(spec, lock)


def unpack_tree(directory: Path, member: str) -> Path:
    """Unpack a directory that the spec names, from its tar file in the bundle.

    Raises VerificationError for a damaged one, or one that would leave the bundle.
    """
    target = directory / ".trees" / check_name(member)
    links: dict[Path, str] = {}
    try:
        target.mkdir(parents=True)
        with (
            _SmallReads(io.FileIO(directory / member)) as whole,
            tarfile.open(fileobj=whole, mode="r:") as tar,
        ):
            for info in tar:
                path = target / _inside(info.name)
                if info.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif info.issym() and path not in links:
                    links[path] = _inside_link(info)
                elif info.isreg() and (source := tar.extractfile(info)):
                    with source, path.open("xb") as stream:
                        shutil.copyfileobj(source, stream)
                    path.chmod(0o755 if info.mode & 0o111 else 0o644)
                else:
                    raise ValueError(f"{info.name!r} is no file, or is there twice")
        for path in links:
            # Its way out was counted from there: another link on its way would change that.
            if not links.keys().isdisjoint(path.parents):
                raise ValueError(f"{path.name!r} lies in a link")
        # Last, so that nothing is written through one.
        for path, link in links.items():
            path.symlink_to(link)
        for path in links:
            if not path.resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{path.name!r} leads outside, to {links[path]!r}")
    except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise VerificationError(f"cannot be unpacked: {error}", where=member) from None
    return target


class _SmallReads(io.BufferedReader):
    """A tar file. Python reads a long name, or a pax header (POSIX.1-2017, pax, "pax Interchange
    Format"), in one piece as large as it says it is.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes; raises ReadError for more than MAX_TAR_READ, or for all."""
        if size is None or not 0 <= size <= MAX_TAR_READ:
            raise tarfile.ReadError("a header of it is larger than 64 KiB")
        return super().read(size)


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/"):
        raise ValueError(f"{name!r} leaves the directory")
    return name


def _inside_link(info: tarfile.TarInfo) -> str:
    """The target of a symbolic link that cannot lead outside, whatever other links there are."""
    parts = PurePosixPath(info.linkname).parts
    up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    depth = len(PurePosixPath(info.name).parts) - 1
    if not parts or parts[0] == "/" or ".." in parts[up:] or up > depth:
        raise ValueError(f"{info.name!r} leads outside, to {info.linkname!r}")
    return info.linkname


def missing_secrets(bundle: Bundle, environment: Sequence[str]) -> list[str]:
    """Secrets the spec needs that are in neither the bundle, the environment, nor beside it."""
    if bundle.recipe is None or bundle.sealed:
        return []
    missing = []
    spec = bundle.recipe.spec
    for entry in secrets_of(spec.spec):
        kind, _, name = entry.partition(":")
        there = name in environment if kind == "env" else spec.resolve(name).is_file()
        if not there:
            missing.append(entry)
    return missing
