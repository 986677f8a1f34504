"""Makes the tree of a Debian-like system from packages, with mmdebstrap or debootstrap."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from imagekit.errors import DownloadError, HostError, SpecError, ToolError, VerificationError
from imagekit.host import userns
from imagekit.host.chroot import chroot
from imagekit.host.run import run
from imagekit.host.sandbox.profiles import LISTING
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.archive import collect, make_repository
from imagekit.installs.stages.provenance import provenance
from imagekit.installs.stages.trees import hand_over, pack
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.load import SpecFile

SHIPS = ("../hooks",)
HOOKS = Path(__file__).parents[1] / "hooks"
TREE_ESTIMATE = 2 << 30
"""Bytes reserved on tmpfs for a tree: a minimal system with a kernel has 0.7 GiB."""


class Rootfs(Stage):
    """Packages unpacked and configured; no initrd yet. Made as root or in a user namespace."""

    name: ClassVar[str] = "rootfs"
    title: ClassVar[str] = "installing packages into a tree"
    makes = ("rootfs.tar", "packages.json", "sources.json")

    def __init__(
        self,
        context: BuildContext,
        mirrors: Mirrors,
        packages: list[str],
    ) -> None:
        self._file = context.file
        self._install = context.spec.debootstrap
        self._mirrors = mirrors
        self._packages = packages
        self._lock = context.lock
        self._debs = context.debs
        self._epoch = context.epoch

    def check(self) -> None:
        if self._lock is not None and self._install.tool != "mmdebstrap":
            raise SpecError(
                "a locked build needs install.tool: mmdebstrap",
                where=self._file.where("install", "tool"),
            )

    def key(self) -> Mapping[str, Any]:
        os_ = self._file.spec.os
        return {
            "suite": [os_.distribution, os_.suite, os_.arch],
            "mirrors": self._guest_sources(),
            "keyring": None if self._lock else digest_file(self._mirrors.keyring),
            "lock": self._lock.digest if self._lock else None,
            "packages": self._packages,
            "tool": [self._install.tool, self._install.variant],
            "tool version": tool_versions([self._install.tool]),
            "epoch": self._epoch,
        }

    def run(self, run: StageRun) -> None:
        space = run.workspace
        parent = space.temporary("rootfs", size_bytes=TREE_ESTIMATE)
        tree = parent / "tree"
        tree.mkdir(mode=0o755)
        log = run.logs / f"{self._install.tool}.log"
        (parent / "lists").mkdir()
        if self._install.tool == "mmdebstrap":
            self._mmdebstrap(tree, parent, log, run)
        else:
            self._debootstrap(tree, log)
        listing = chroot(
            tree,
            ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"],
            profile=LISTING,
            what="listing the packages",
        ).text
        rows = [line.split("\t") for line in listing.splitlines()]
        packages = [{"name": n, "version": v, "architecture": a} for n, v, a in rows]
        (run.output / "packages.json").write_text(json.dumps(packages, indent=1))
        self._settle_sources(tree)
        own = (tree / "etc/apt/sources.list").read_text().splitlines()
        sources = self._provenance(parent / "lists", packages, [x for x in own if x.strip()])
        (run.output / "sources.json").write_text(json.dumps(sources, indent=1))
        # Every instance makes its own; a rebuild must not differ by what nobody uses.
        for key in (tree / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        pack(tree, run.output / "rootfs.tar", run.logs / "tar.log", epoch=self._epoch)
        hand_over(space, run.output / "rootfs.tar", tree)

    def _settle_sources(self, tree: Path) -> None:
        """The guest keeps the mirrors of the build, without the credentials they may hold."""
        wanted = self._guest_sources()
        if not wanted and self._lock is None:
            return
        for path in (tree / "etc/apt/sources.list.d").iterdir():
            path.unlink()
        sources = tree / "etc/apt/sources.list"
        sources.write_text("".join(f"{line}\n" for line in wanted))
        sources.chmod(0o644)

    def _guest_sources(self) -> list[str]:
        return self._lock.sources if self._lock else self._mirrors.public()

    def _provenance(
        self, lists: Path, packages: list[dict[str, str]], own_sources: list[str]
    ) -> dict[str, Any]:
        """Where the packages came from; of a locked build, what the lock says, once checked."""
        if self._lock is None:
            return {
                **provenance(lists, packages),
                "sources": self._mirrors.public() or own_sources,
                "keyring_sha256": digest_file(self._mirrors.keyring),
            }
        wanted = {(p.name, p.version, p.architecture) for p in self._lock.packages}
        made = {(p["name"], p["version"], p["architecture"]) for p in packages}
        if wanted != made:
            odd = sorted(f"{name} {version}" for name, version, _arch in wanted ^ made)
            raise VerificationError(
                f"the tree does not hold the lock's packages: {', '.join(odd[:5])}",
                hint="the spec and its lock do not belong together; imagekit lock update",
            )
        include = {"packages", "releases", "sources", "keyring_sha256"}
        return self._lock.model_dump(mode="json", include=include)

    def _environment(self, tmp: Path) -> dict[str, str]:
        env = {"TMPDIR": str(tmp), "IMAGEKIT_LISTS": str(tmp / "lists")}
        if self._file.spec.os.proxy:
            # By the environment: an option would show in the process list and stay in the guest.
            env |= dict.fromkeys(("http_proxy", "https_proxy"), self._file.spec.os.proxy)
        return env

    def _mmdebstrap(self, tree: Path, tmp: Path, log: Path, stage_run: StageRun) -> None:
        os_ = self._file.spec.os
        argv = ["mmdebstrap", "--mode=root", "--format=directory"]
        argv += [f"--variant={self._install.variant}", f"--architectures={os_.arch}"]
        argv += [f"--include={','.join(self._packages)}"]
        argv += [] if self._lock else [f"--keyring={self._mirrors.keyring}"]
        argv += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Retries "3"']
        argv += [f"--essential-hook={HOOKS / 'essential.sh'}"]
        argv += [f"--customize-hook={HOOKS / 'customize.sh'}"]
        total = len(self._packages) + 200
        done = 0

        def line(text: str) -> None:
            nonlocal done
            if text.startswith(("Unpacking ", "Setting up ")):
                done += 1
                stage_run.progress(min(done, 2 * total), 2 * total)

        where = [os_.suite, str(tree)]
        if self._lock is not None:
            repository = tmp / "packages"
            repository.mkdir()
            env = self._environment(tmp)
            collect(self._lock, repository, self._mirrors, self._debs, env)
            where.append(make_repository(self._lock, repository, os_.suite, os_.arch))
        elif self._mirrors.sources:
            # In a file: a mirror's password would show in the process list.
            directory = stage_run.workspace.temporary("sources")
            keyring = directory / f"archive{self._mirrors.keyring.suffix or '.gpg'}"
            keyring.write_bytes(self._mirrors.keyring.read_bytes())
            sources = directory / "sources.list"
            sources.touch(mode=0o600)
            sources.write_text("\n".join(self._mirrors.lines(keyring)) + "\n")
            where.append(str(sources))
        try:
            run(
                [*userns.isolated(), *argv, *where],
                env=self._environment(tmp),
                log=log,
                on_line=line,
                timeout=7200,
                what="mmdebstrap",
            )
        except ToolError as error:
            raise explain(error, self._file, log) from None

    def _debootstrap(self, tree: Path, log: Path) -> None:
        if os.geteuid() != 0:
            raise HostError(
                "debootstrap needs root",
                hint="run imagekit as root, or leave install.tool at mmdebstrap",
            )
        os_ = self._file.spec.os
        env = self._environment(tree.parent)
        argv = ["debootstrap", "--variant=minbase", f"--arch={os_.arch}"]
        argv += [f"--components={','.join(self._mirrors.components)}"]
        argv += [f"--keyring={self._mirrors.keyring}", "--force-check-gpg"]
        where = [os_.suite, str(tree), *(url for url, _suite in self._mirrors.sources[:1])]
        try:
            run(
                [*userns.isolated(), *argv, *where],
                env=env,
                log=log,
                timeout=7200,
                what="debootstrap",
            )
            self._finish_debootstrap(tree, log, env)
        except ToolError as error:
            raise explain(error, self._file, log) from None

    def _finish_debootstrap(self, tree: Path, log: Path, env: Mapping[str, str]) -> None:
        """debootstrap installs one suite only: add the other sources, then the packages."""
        run([*userns.isolated(), str(HOOKS / "essential.sh"), str(tree)], log=log)
        list_file = tree / "etc/apt/sources.list"
        inside = Path("/") / "etc/apt" / f"imagekit-build{self._mirrors.keyring.suffix or '.gpg'}"
        lines = self._mirrors.lines(inside) or list_file.read_text().splitlines()
        list_file.unlink(missing_ok=True)
        list_file.touch(mode=0o600)
        list_file.write_text("\n".join(lines) + "\n")
        trusted = tree / f"etc/apt/imagekit-build{self._mirrors.keyring.suffix or '.gpg'}"
        trusted.write_bytes(self._mirrors.keyring.read_bytes())
        resolv = tree / "etc/resolv.conf"
        before = resolv.read_bytes() if resolv.is_file() else None
        resolv.unlink(missing_ok=True)
        resolv.write_bytes(Path("/etc/resolv.conf").read_bytes())
        proxy = {k: v for k, v in env.items() if k.endswith("_proxy")}
        install = ["apt-get", "-y", "-o", "Dpkg::Options::=--force-unsafe-io"]
        install += ["--no-install-recommends", "install", *self._packages]
        for argv in (
            ["apt-get", "update"],
            ["apt-get", "-y", "dist-upgrade"],
            install,
            ["apt-get", "clean"],
        ):
            chroot(tree, argv, network=True, env=proxy, log=log, timeout=7200, what="apt-get")
        run([*userns.isolated(), str(HOOKS / "customize.sh"), str(tree)], env=env, log=log)
        trusted.unlink()
        list_file.chmod(0o644)
        resolv.unlink(missing_ok=True)
        if before is not None:
            resolv.write_bytes(before)


def explain(error: ToolError, file: SpecFile, log: Path) -> Exception:
    """Turn the failure of an installer into what the user can act on."""
    text = log.read_text(errors="replace") if log.exists() else error.output
    os_ = file.spec.os
    hint = f"the whole log is in {log}"
    if re.search(
        r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|Invalid signature|signatures? (were|was)"
        r" invalid|Release signed by unknown key|signature verification",
        text,
    ):
        return VerificationError(
            f"the signature of the archive does not match the keyring for {os_.suite}",
            where=file.where("os", "suite"),
            hint=f"name the right keyring in os.keyring; {hint}",
        )
    missing = re.search(r"Unable to locate package (\S+)|Couldn't find these debs: (.*)", text)
    if missing:
        return SpecError(
            f"{os_.suite} has no package {missing[1] or missing[2]}",
            where=file.where("install", "packages"),
            hint=hint,
        )
    if re.search(
        r"does not have a Release file|404 +Not Found.*Release|Invalid Release file, no "
        r"entry|No such script|doesn't contain valid data",
        text,
    ):
        return SpecError(
            f"the mirror has no suite {os_.suite}", where=file.where("os", "suite"), hint=hint
        )
    if re.search(
        r"Could not (connect|resolve)|Connection (refused|failed|timed out)|Temporary "
        r"failure|Failed to fetch|Failed getting release file",
        text,
    ):
        host = ", ".join(
            sorted({urlsplit(line.split()[1]).hostname or "?" for line in _urls(file)})
        )
        return DownloadError(
            f"the mirror cannot be reached ({host})", where=file.where("os", "mirror"), hint=hint
        )
    if "No space left on device" in text:
        return HostError(
            "no space left while installing packages",
            hint="set IMAGEKIT_CACHE and TMPDIR to a larger file system",
        )
    return error


def _urls(file: SpecFile) -> list[str]:
    from imagekit.installs.mirrors import mirrors_for

    return mirrors_for(file).public()
