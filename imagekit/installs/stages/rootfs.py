"""Makes the tree of a Debian-like system from packages, with mmdebstrap or debootstrap."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import GuestError, HostError, SpecError, ToolError, VerificationError
from imagekit.guest.backends.tree import tree_files
from imagekit.host.chroot import chroot
from imagekit.host.sandbox.network import let_through, loopback_forwards
from imagekit.host.sandbox.profiles import LISTING
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.aptfiles import ROOT, SOURCES_LIST, fetch_lists, settle
from imagekit.installs.stages.archive import collect, keep_packages, make_repository
from imagekit.installs.stages.bootstrap import REPOSITORY, SOURCES, Bootstrap
from imagekit.installs.stages.dpkgstate import busy_packages
from imagekit.installs.stages.mirrorfailures import explain
from imagekit.installs.stages.offering import ESSENTIAL, Offer
from imagekit.installs.stages.provenance import provenance
from imagekit.installs.stages.trees import hand_over, pack
from imagekit.pipeline.pool import FilePool
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.derived import VARIABLE
from imagekit.spec.lock import LockedPackage

RESOLV_CONF = "/etc/resolv.conf"
LISTS = "lists"
"""Under this name apt's lists are handed over to a stage that goes on in this run."""
TREE_ESTIMATE = 2 << 30
"""Bytes reserved on tmpfs for a tree: a minimal system with a kernel has 0.7 GiB."""


class Rootfs(Stage):
    """Packages unpacked and configured; no initrd yet. Made as root or in a user namespace.

    With ``more`` it is a base, on which another stage installs the rest of a lock's packages.
    """

    name: ClassVar[str] = "rootfs"
    title: ClassVar[str] = "installing packages into a tree"
    makes = ("rootfs.tar", "packages.json", "sources.json")

    def __init__(
        self,
        context: BuildContext,
        mirrors: Mirrors,
        packages: list[str],
        *,
        more: bool = False,
    ) -> None:
        self._more = more
        self._file = context.file
        self._install = context.spec.debootstrap
        self._mirrors = mirrors
        self._packages = packages
        self._lock = context.lock
        self._debs = context.debs
        self._archive = context.archive
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
            "archive": self._archive,
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
        boot = self._bootstrap(parent, run)
        proxy = self._file.spec.os.proxy
        with let_through(loopback_forwards([*boot.mirrors, *([proxy] if proxy else [])])):
            if self._install.tool == "mmdebstrap":
                self._mmdebstrap(boot, run)
            else:
                self._debootstrap(boot)
        tree = boot.tree
        archive, listed, origins = (run.output / name for name in self.makes)
        listing = chroot(
            tree,
            ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"],
            profile=LISTING,
            what="listing the packages",
        ).text
        rows = [line.split("\t") for line in listing.splitlines()]
        packages = [{"name": n, "version": v, "architecture": a} for n, v, a in rows]
        listed.write_text(json.dumps(packages, indent=1))
        with tree_files(tree) as files:
            own = settle(
                files,
                self._guest_sources(),
                locked=self._lock is not None,
                downloaded_outside=self._install.tool == "mmdebstrap",
            )
        lists = space.temporary(LISTS)
        with tree_files(boot.work) as files:
            fetch_lists(files, lists)
        sources = self._provenance(lists, packages, own)
        origins.write_text(json.dumps(sources, indent=1))
        if run.pool is not None and self._lock is None:
            locked = [LockedPackage.model_validate(row) for row in sources["packages"]]
            wanted = [(package.filename, package.sha256) for package in locked]
            keep_packages(boot.work / "debs", wanted, run.pool)
        pack(tree, archive, run.logs / "tar.log", epoch=self._epoch)
        hand_over(space, archive, tree)
        if self._more and self._lock is None:
            space.hand_over(LISTS, lists)

    def used(self, made: Mapping[str, Path], pool: FilePool) -> None:
        for row in json.loads(made[self.makes[2]].read_text())["packages"]:
            pool.has(row["sha256"])

    def _bootstrap(self, parent: Path, run: StageRun) -> Bootstrap:
        """Where it is made, below ``parent``: the tree, and what the tools are given."""
        for name in ("work", "work/lists", "work/debs", "sources", "offered"):
            (parent / name).mkdir(mode=0o755)
        if self._lock is None:  # else digests are compared, and the host may have no keyring
            keyring = parent / "sources" / self._keyring_name
            keyring.write_bytes(self._mirrors.keyring.read_bytes())
        offer = None
        if self._lock is None and run.pool is not None and run.pool.has_any():
            offer = Offer(parent / "offered", run.pool)
        return Bootstrap(
            self._tree(parent, run),
            parent / "work",
            parent / "sources",
            run.logs / f"{self._install.tool}.log",
            self._environment(),
            tuple(url for url, _suite in self._mirrors.sources),
            offer,
        )

    def _tree(self, parent: Path, run: StageRun) -> Path:
        """The tree to work in, in or beside ``parent``; here an empty one."""
        del run
        (parent / "tree").mkdir(mode=0o755)
        return parent / "tree"

    def _guest_sources(self) -> list[str]:
        return self._lock.sources if self._lock else self._mirrors.guest_lines()

    def _provenance(
        self, lists: Path, packages: list[dict[str, str]], own_sources: list[str]
    ) -> dict[str, Any]:
        """Where the packages came from; of a locked build, what the lock says, once checked."""
        if self._lock is None:
            return {
                **provenance(lists, packages),
                "sources": self._mirrors.guest_lines() or own_sources,
                "keyring_sha256": digest_file(self._mirrors.keyring),
            }
        wanted = {(p.name, p.version, p.architecture) for p in self._lock.packages}
        made = {(p["name"], p["version"], p["architecture"]) for p in packages}
        if not made <= wanted if self._more else wanted != made:
            odd = sorted(f"{name} {version}" for name, version, _arch in wanted ^ made)
            raise VerificationError(
                f"the tree does not hold the lock's packages: {', '.join(odd[:5])}",
                hint="the spec and its lock do not belong together; imagekit lock update",
            )
        include = {"packages", "releases", "sources", "keyring_sha256"}
        return self._lock.model_dump(mode="json", include=include)

    def _environment(self) -> dict[str, str]:
        env = {} if self._epoch is None else {VARIABLE: str(self._epoch)}
        if self._file.spec.os.proxy:
            # By the environment: an option would show in the process list and stay in the guest.
            env |= dict.fromkeys(("http_proxy", "https_proxy"), self._file.spec.os.proxy)
        return env

    def _mmdebstrap(self, boot: Bootstrap, stage_run: StageRun) -> None:
        os_ = self._file.spec.os
        options = [*self._options(), f"--architectures={os_.arch}"]
        options += [] if self._lock else [f"--keyring={SOURCES}/{self._keyring_name}"]
        options += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Retries "3"']
        total = len(self._packages) + 200
        done = 0

        def line(text: str) -> None:
            nonlocal done
            if text.startswith(("Unpacking ", "Setting up ")):
                done += 1
                stage_run.progress(min(done, 2 * total), 2 * total)

        where = [os_.suite]
        repository = None
        if self._lock is not None:
            repository = stage_run.workspace.temporary("packages")
            env = {**self._environment(), "TMPDIR": str(repository)}
            collect(self._lock, repository, self._mirrors, self._debs, env, stage_run.pool)
            source = make_repository(self._lock, repository, os_.suite, os_.arch, REPOSITORY)
            where.append(source)
        elif self._mirrors.sources:
            # In a file: a mirror's password would show in the process list.
            sources = boot.sources / "sources.list"
            sources.touch(mode=0o600)
            lines = self._mirrors.lines(Path(SOURCES, self._keyring_name))
            sources.write_text("\n".join(lines) + "\n")
            where.append(f"{SOURCES}/sources.list")
        try:
            boot.mmdebstrap(
                options, where, repository=repository, wanted=self._wanted(), on_line=line
            )
        except ToolError as error:
            raise explain(named(error, boot.tree), self._file, boot.log, self._mirrors) from None

    def _options(self) -> list[str]:
        """What mmdebstrap is told to install."""
        return [f"--variant={self._install.variant}", f"--include={','.join(self._packages)}"]

    def _wanted(self) -> list[str]:
        """The same as arguments of apt-get(8), patterns as in apt-patterns(7)."""
        variant = self._install.variant
        priorities = [f"?priority({name})" for name in ESSENTIAL[variant].split()]
        own = ["apt"] if variant == "apt" else []
        return ["?essential", *priorities, *own, *self._packages]

    @property
    def _keyring_name(self) -> str:
        return f"archive{self._mirrors.keyring.suffix or '.gpg'}"

    def _debootstrap(self, boot: Bootstrap) -> None:
        if os.geteuid() != 0:
            raise HostError(
                "debootstrap needs root",
                hint="run imagekit as root, or leave install.tool at mmdebstrap",
            )
        os_ = self._file.spec.os
        options = ["--variant=minbase", f"--arch={os_.arch}"]
        options += [f"--components={','.join(self._mirrors.components)}"]
        options += [f"--keyring={SOURCES}/{self._keyring_name}", "--force-check-gpg"]
        where = [os_.suite, *(url for url, _suite in self._mirrors.sources[:1])]
        try:
            boot.debootstrap(options, where)
            boot.hook("essential.sh")
            self._finish_debootstrap(boot)
            boot.hook("customize.sh")
        except ToolError as error:
            raise explain(named(error, boot.tree), self._file, boot.log, self._mirrors) from None

    def _finish_debootstrap(self, boot: Bootstrap) -> None:
        """debootstrap installs one suite only: add the other sources, then the packages."""
        suffix = self._mirrors.keyring.suffix or ".gpg"
        trusted = f"/etc/apt/imagekit-build{suffix}"
        with tree_files(boot.tree) as files:
            own = files.text(SOURCES_LIST) or ""
            lines = self._mirrors.lines(Path(trusted)) or own.splitlines()
            text = "".join(f"{line}\n" for line in lines)
            files.write(SOURCES_LIST, text.encode(), mode=0o600, owner=ROOT)
            files.write(trusted, self._mirrors.keyring.read_bytes(), mode=0o644, owner=ROOT)
            before = files.read(RESOLV_CONF)
            resolv = Path(RESOLV_CONF).read_bytes()
            files.write(RESOLV_CONF, resolv, mode=0o644, owner=ROOT)
        install = ["apt-get", "-y", "-o", "Dpkg::Options::=--force-unsafe-io"]
        install += ["--no-install-recommends", "install", *self._packages]
        for argv in (
            ["apt-get", "update"],
            ["apt-get", "-y", "dist-upgrade"],
            install,
            ["apt-get", "clean"],
        ):
            boot.inside(argv, what="apt-get")
        with tree_files(boot.tree) as files:
            files.remove(trusted)
            files.chmod(files.resolve(SOURCES_LIST), 0o644)
            files.remove(RESOLV_CONF)
            if before is not None:
                files.write(RESOLV_CONF, before, mode=0o644, owner=ROOT)


def named(error: ToolError, tree: Path) -> ToolError:
    """``error`` with the packages whose scripts ran then: an installer that is ended tells none."""
    with contextlib.suppress(GuestError), tree_files(tree) as files:
        busy = busy_packages(files)
        if busy:
            error.what += f"; scripts of the package {' and '.join(busy)} had not ended"
    return error
