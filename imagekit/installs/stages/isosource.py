"""The installer ISO: fetched or copied, and verified along its whole chain before any use."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk.extents import copy_sparse, opened
from imagekit.errors import ImageError, SpecError, VerificationError
from imagekit.host import openpgp
from imagekit.host.download import download, shown
from imagekit.installs.context import BuildContext
from imagekit.pipeline.digests import file_digest
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.pipeline.workspace import cache_root
from imagekit.spec.install import Iso

MAX_CHECKSUMS = 4 << 20
_URL = re.compile(r"https?://")
_CLEARSIGNED = "-----BEGIN PGP SIGNED MESSAGE-----"


class IsoSource(Stage):
    """Brings the ISO into the store; keyring, signature, checksum file and digest are checked."""

    name: ClassVar[str] = "iso"
    title: ClassVar[str] = "fetching and verifying the installer ISO"
    makes = ("source.iso",)
    shared: ClassVar[bool] = False

    def __init__(self, context: BuildContext, install: Iso) -> None:
        self._file = context.file
        self._install = install

    def check(self) -> None:
        install, file = self._install, self._file
        remote = bool(_URL.match(install.iso))
        if not remote and not file.resolve(install.iso).is_file():
            raise SpecError(
                f"there is no ISO {file.resolve(install.iso)}", where=file.where("install", "iso")
            )
        if install.signature and not install.keyring:
            raise SpecError(
                "a signature needs the keyring it is checked with",
                where=file.where("install", "signature"),
                hint="name install.keyring",
            )
        if install.keyring and not file.resolve(install.keyring).is_file():
            raise SpecError(
                f"there is no keyring {file.resolve(install.keyring)}",
                where=file.where("install", "keyring"),
            )
        if remote and not self._verifiable:
            raise SpecError(
                "a downloaded ISO is used only when it can be verified"
                + (", and a keyring alone verifies nothing" if install.keyring else ""),
                where=file.where("install", "iso"),
                hint="name install.sha256, or install.keyring with checksums or a signature",
            )

    @property
    def _verifiable(self) -> bool:
        """Whether the spec names what vouches for the ISO, wherever that came from."""
        install = self._install
        signed = install.keyring and (install.checksums or install.signature)
        return bool(install.sha256 or signed)

    def key(self) -> Mapping[str, Any]:
        install = self._install
        local = None
        if not _URL.match(install.iso):
            local = file_digest(self._file.resolve(install.iso))
        keyring = self._file.resolve(install.keyring) if install.keyring else None
        return {
            "iso": install.iso if local is None else local,
            "sha256": (install.sha256 or "").lower(),
            "checksums": install.checksums,
            "signature": install.signature,
            "keyring": digest_file(keyring) if keyring else None,
        }

    def run(self, run: StageRun) -> None:
        install = self._install
        scratch = run.workspace.temporary("verify")
        if _URL.match(install.iso):
            source = self._fetched(install.iso, run)
        else:
            source = self._file.resolve(install.iso)
        # The copy is checked, which nobody else can change: the file may be another user's.
        iso = run.output / "source.iso"
        copy_sparse(source, iso)
        where = self._file.where("install", "iso")
        verified = False
        if install.sha256:
            check_digest(iso, install.sha256, where)
            verified = True
        if install.checksums:
            text = self._signed_text(install.checksums, scratch)
            name = install.iso.rpartition("/")[2]
            check_digest(iso, digest_of(text, name, install.checksums), where)
            verified = True
        elif install.signature:
            openpgp.verify(self._small(install.signature, scratch), self._keyring(), iso)
            verified = True
        if not verified:
            run.note(f"{source.name} was not verified: the spec names no digest and no signature")

    def _fetched(self, url: str, run: StageRun) -> Path:
        directory = cache_root() / "downloads"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = directory / hashlib.sha256(url.encode()).hexdigest()
        download(url, target, progress=run.progress)
        run.workspace.callback(lambda: target.unlink(missing_ok=True))
        return target

    def _small(self, name: str, scratch: Path) -> Path:
        """A copy of a signature or a checksum file, which is read more than once."""
        target = scratch / hashlib.sha256(name.encode()).hexdigest()
        if _URL.match(name):
            download(name, target, max_bytes=MAX_CHECKSUMS)
            return target
        with opened(self._file.resolve(name)) as fd:
            target.write_bytes(os.pread(fd, MAX_CHECKSUMS + 1, 0))
        return target

    def _keyring(self) -> Path:
        return self._file.resolve(self._install.keyring or "")

    def _signed_text(self, name: str, scratch: Path) -> str:
        """The checksum file's text: only what a signature covers, where there is one."""
        path = self._small(name, scratch)
        try:
            if path.stat().st_size > MAX_CHECKSUMS:
                raise ImageError("a checksum file of more than 4 MiB", where=shown(name))
            text = path.read_text("utf-8", "replace")
        except OSError as error:
            raise SpecError(
                f"cannot read {path}: {error.strerror}",
                where=self._file.where("install", "checksums"),
            ) from None
        if self._install.signature:
            openpgp.verify(self._small(self._install.signature, scratch), self._keyring(), path)
        elif self._install.keyring:
            if not text.startswith(_CLEARSIGNED):
                raise VerificationError("the checksum file is not signed", where=shown(name))
            plain = scratch / "plain"
            openpgp.verify(path, self._keyring(), plain=plain)
            text = plain.read_text("utf-8", "replace")
        return text


def check_digest(path: Path, sha256: str, where: str) -> None:
    """Raise VerificationError unless the file has this SHA-256 (hex)."""
    found = digest_file(path)
    if found != sha256.lower():
        raise VerificationError(
            f"the ISO's SHA-256 is {found}, not {sha256.lower()}",
            where=where,
            hint="it is damaged, another version, or not what it claims to be",
        )


def digest_of(text: str, name: str, where: str) -> str:
    """The SHA-256 of ``name`` in a checksum file, in GNU's or BSD's form."""
    for line in text.splitlines():
        gnu = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip())
        bsd = re.fullmatch(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})", line.strip())
        if gnu and gnu[2] == name:
            return gnu[1]
        if bsd and bsd[1] == name:
            return bsd[2]
    raise VerificationError(f"there is no SHA-256 of {name} in it", where=shown(where))
