"""The installer's kernel and initrd for a network installation, each with its proof of origin."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import SpecError, VerificationError
from imagekit.host.download import download
from imagekit.installs.context import BuildContext
from imagekit.netboot import sources
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.pipeline.workspace import cache_root
from imagekit.spec.install import Netboot

_URL = re.compile(r"https?://")
_LIMITS = {"kernel": sources.MAX_KERNEL, "initrd": sources.MAX_INITRD}


class NetbootSource(Stage):
    """Brings kernel and initrd into the store: from a package, a signed mirror, files or URLs."""

    name: ClassVar[str] = "installer"
    title: ClassVar[str] = "fetching and verifying the installer's kernel and initrd"
    makes = ("installer.kernel", "installer.initrd", "installer.json")
    shared: ClassVar[bool] = False

    def __init__(self, context: BuildContext, install: Netboot) -> None:
        self._file = context.file
        self._install = install

    def check(self) -> None:
        file, install = self._file, self._install
        named = [n for n in ("package", "kernel", "mirror") if getattr(install, n)]
        if len(named) != 1:
            raise SpecError(
                "an installer is named by package, by mirror, or by kernel and initrd",
                where=file.where("install", *named[1:2]),
                hint="for example package: debian-installer-12-netboot-amd64",
            )
        if bool(install.kernel) != bool(install.initrd):
            raise SpecError("kernel and initrd go together", where=file.where("install", *named))
        for what, name, digest in self._pair():
            if _URL.match(name) and not digest:
                raise SpecError(
                    f"a downloaded {what} is used only when it can be verified",
                    where=file.where("install", what),
                    hint=f"name install.{what}_sha256",
                )
            if not _URL.match(name) and not file.resolve(name).is_file():
                raise SpecError(
                    f"there is no {what} {file.resolve(name)}", where=file.where("install", what)
                )
        if install.mirror and not self._keyring().is_file():
            raise SpecError(
                f"there is no keyring {self._keyring()}", where=file.where("install", "keyring")
            )

    def _pair(self) -> list[tuple[str, str, str | None]]:
        install = self._install
        pair = (
            ("kernel", install.kernel, install.kernel_sha256),
            ("initrd", install.initrd, install.initrd_sha256),
        )
        return [(what, name, digest) for what, name, digest in pair if name]

    def _keyring(self) -> Path:
        given = self._install.keyring
        return self._file.resolve(given) if given else sources.DEBIAN_KEYRING

    def key(self) -> Mapping[str, Any]:
        install = self._install
        files: dict[str, Any] = {}
        for what, name, digest in self._pair():
            local = None if _URL.match(name) else digest_file(self._file.resolve(name))
            files[what] = [local or name, (digest or "").lower()]
        return {
            "package": install.package,
            "files": files,
            "mirror": install.mirror,
            "suite": self._file.spec.os.suite if install.mirror else "",
            "keyring": digest_file(self._keyring()) if install.mirror else None,
        }

    def run(self, run: StageRun) -> None:
        install, os_ = self._install, self._file.spec.os
        scratch = run.workspace.temporary("installer")
        kernel, initrd = run.output / "installer.kernel", run.output / "installer.initrd"
        if install.package:
            found = sources.from_package(install.package, scratch)
        elif install.mirror:
            found = sources.from_mirror(
                install.mirror, os_.suite, os_.arch, scratch, keyring=self._keyring()
            )
        else:
            origin = [self._given(what, name, digest, run) for what, name, digest in self._pair()]
            self._note(run, ", ".join(origin))
            return
        shutil.move(found.kernel, kernel)
        shutil.move(found.initrd, initrd)
        self._note(run, found.origin)

    def _given(self, what: str, name: str, digest: str | None, run: StageRun) -> str:
        """One file into the output; what it is, with its digest."""
        target = run.output / f"installer.{what}"
        if _URL.match(name):
            directory = cache_root() / "downloads"
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = directory / hashlib.sha256(name.encode()).hexdigest()
            download(name, part, progress=run.progress, max_bytes=_LIMITS[what])
            shutil.move(part, target)
        else:
            shutil.copyfile(self._file.resolve(name), target)
        found = digest_file(target)
        if digest and found != digest.lower():
            raise VerificationError(
                f"the {what}'s SHA-256 is {found}, not {digest.lower()}",
                where=self._file.where("install", what),
                hint="it is damaged, another version, or not what it claims to be",
            )
        if not digest:
            run.note(f"the {what} was not verified: the spec names no {what}_sha256")
        return f"{name.rpartition('/')[2]} sha256:{found}"

    def _note(self, run: StageRun, origin: str) -> None:
        (run.output / "installer.json").write_text(json.dumps({"origin": origin}, indent=1))
