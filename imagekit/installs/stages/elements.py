"""Runs diskimage-builder elements in a tree: one stage for each of their phases.

The order and the place of each phase are those of lib/disk-image-create: root.d, extra-data.d,
post-root.d, pre-finalise.d and cleanup.d beside the tree, the others in it, each by
diskimage-builder's own dib-run-parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ToolError
from imagekit.guest.backends.tree import tree_files
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import ELEMENT, LISTING, ROOT_ELEMENT
from imagekit.installs.context import BuildContext
from imagekit.installs.elements import environment as env
from imagekit.installs.elements import hooks as hook_files
from imagekit.installs.elements.catalogue import dib_version
from imagekit.installs.elements.failures import explain
from imagekit.installs.elements.planning import ElementPlan
from imagekit.installs.stages import fetching
from imagekit.installs.stages.trees import hand_over, open_tree, pack
from imagekit.pipeline.stage import Stage, StageRun

# What create_base and finalise_base of lib/img-functions do around the phases, in the tree, where
# no link can lead out of it. /etc/resolv.conf.ORIG is an interface that elements may use.
BEGIN = """set -eu
if [ -L /etc/resolv.conf ] || [ -f /etc/resolv.conf ]; then
    mv /etc/resolv.conf /etc/resolv.conf.ORIG
fi
printf '%s' "$RESOLV_CONF" > /etc/resolv.conf
"""
FINISH = """set -eu
if [ -L /etc/resolv.conf ]; then
    rm -f /etc/resolv.conf.ORIG
else
    rm -f /etc/resolv.conf
    if [ -L /etc/resolv.conf.ORIG ] || [ -f /etc/resolv.conf.ORIG ]; then
        mv /etc/resolv.conf.ORIG /etc/resolv.conf
    fi
fi
find /tmp -xdev -mindepth 1 -delete
find /var/log -xdev -type f -exec truncate -s 0 {} +
find /root -xdev -name '*.log' -type f -delete
"""


def list_packages(tree: Path, log: Path) -> list[dict[str, str]]:
    """The installed packages of ``tree``: name, version, architecture."""
    show = "${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n"
    done = Sandbox(tree, LISTING).run(
        ["dpkg-query", "-W", "-f", show],
        env={"PATH": env.INSIDE_PATH, "LC_ALL": "C.UTF-8"},
        timeout=600,
        log=log,
        what="listing the packages",
    )
    rows = [line.split("\t") for line in done.text.splitlines()]
    return [
        {"name": row[0], "version": row[1], "architecture": row[2]}
        for row in rows
        if len(row) == 4 and row[3].startswith("ii")
    ]


class ElementPhase(Stage):
    """One phase of all elements, on the tree that the phase before left."""

    phase: ClassVar[str]
    outside: ClassVar[bool]
    shared: ClassVar[bool] = False
    """Between the phases the tree has this host's resolver."""
    interim: ClassVar[bool] = True

    def __init_subclass__(cls, *, phase: str, title: str, outside: bool = False) -> None:
        """``outside``: the scripts run beside the tree, as disk-image-create runs them."""
        cls.phase, cls.title, cls.outside = phase, title, outside
        cls.name = f"elements-{phase.removesuffix('.d')}"

    def __init__(self, context: BuildContext, plan: ElementPlan, tree: str, hooks: str) -> None:
        """``tree`` and ``hooks`` name the artefacts of the stage before; "" where there is none."""
        self._file = context.file
        self._epoch = context.epoch
        self._archive = context.archive
        self._guest = context.lock.sources if context.lock else plan.guest
        self._plan = plan
        self._tree = tree
        self._hooks = hooks
        self.needs = tuple(name for name in (tree, hooks) if name)
        self.makes = (self.tree_artefact, self.hooks_artefact)

    @property
    def tree_artefact(self) -> str:
        """The name of the tree that this stage makes."""
        return f"{self.name}.tar"

    @property
    def hooks_artefact(self) -> str:
        """The name of what scripts changed in the hooks directory."""
        return f"{self.name}-hooks.tar"

    def key(self) -> Mapping[str, Any]:
        return {
            "elements": [e.name for e in self._plan.elements],
            "scripts": self._plan.phase_digest(self.phase),
            "element files": self._plan.shared_digest(),
            "environment": self._plan.keyed_environment(),
            "network": self._plan.network,
            "guest sources": list(self._guest) if self._plan.network else [],
            "archive": self._archive if self._plan.provided else "",
            "diskimage-builder": dib_version(),
            "epoch": self._epoch,
        }

    def run(self, run: StageRun) -> None:
        tree = self._open(run)
        work = run.workspace.temporary(self.name)
        hooks = work / "hooks"
        hooks.mkdir()
        earlier = run.inputs[self._hooks].read_bytes() if self._hooks else None
        hook_files.generate(self._plan.elements, hooks)
        if earlier is not None:
            hook_files.apply_difference(hooks, earlier)
        before = hook_files.snapshot(hooks)
        self._before(tree, run)
        if (hooks / self.phase).is_dir():
            self._run_parts(tree, work, hooks, run)
        self._after(tree, run)
        hook_files.save_difference(
            hooks,
            before,
            earlier if earlier is not None else hook_files.no_difference(),
            run.output / self.hooks_artefact,
        )
        pack(tree, run.output / self.tree_artefact, run.logs / "tar.log", epoch=self._epoch)
        hand_over(run.workspace, run.output / self.tree_artefact, tree)

    def _open(self, run: StageRun) -> Path:
        if self._tree:
            return open_tree(run, self._tree, epoch=self._epoch)
        tree = run.workspace.temporary("rootfs") / "tree"
        tree.mkdir(mode=0o755)
        return tree

    def _before(self, tree: Path, run: StageRun) -> None:
        """What comes before the scripts."""

    def _after(self, tree: Path, run: StageRun) -> None:
        """What comes after the scripts."""

    def _run_parts(self, tree: Path, work: Path, hooks: Path, run: StageRun) -> None:
        plan = self._plan
        if self.outside:
            sandbox = self._beside(tree, work, hooks)
            argv = [f"{env.HOOKS}/dib-run-parts", f"{env.HOOKS}/{self.phase}"]
            variables, cwd = env.outside(plan.environment), env.OUTPUT
        else:
            shown = {hooks: env.IN_TARGET}
            sandbox = Sandbox(tree, ELEMENT, read_only=shown, network=plan.network)
            argv = [f"{env.IN_TARGET}/dib-run-parts", f"{env.IN_TARGET}/{self.phase}"]
            variables, cwd = env.inside(plan.environment), "/"
            self._renew_mirrors(tree, run)
        if self._makes_root:
            variables = env.making_root(variables)
        variables |= self._proxy()
        log = run.logs / f"{self.phase}.log"
        count = sum(len(e.scripts(self.phase)) for e in plan.elements)
        done = 0

        def line(text: str) -> None:
            nonlocal done
            if text.startswith("dib-run-parts Running "):
                run.progress(done, count)
                done += 1

        try:
            sandbox.run(
                argv,
                env=variables,
                cwd=cwd,
                timeout=plan.timeout,
                log=log,
                on_line=line,
                what=f"the phase {self.phase}",
            )
        except ToolError as error:
            told = explain(error, log, plan.elements, self.phase, network=plan.network)
            told.where = self._file.where("install", "elements")
            raise told from None

    def _renew_mirrors(self, tree: Path, run: StageRun) -> None:
        """A stored tree may name the mirrors of another host."""
        if self._swaps_mirrors:
            with tree_files(tree) as files:
                renewed = fetching.renew(files, self._plan.fetched)
            if renewed:
                self._in_tree(tree, ["apt-get", "update"], run, **self._proxy())

    @property
    def _swaps_mirrors(self) -> bool:
        return self._plan.network and not self._plan.provided

    def _proxy(self) -> dict[str, str]:
        proxy = self._file.spec.os.proxy if self._plan.network else None
        return dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}

    @property
    def _makes_root(self) -> bool:
        return self._plan.provided and self.phase == "root.d"

    def _beside(self, tree: Path, work: Path, hooks: Path) -> Sandbox:
        elements, root = work / "elements", work / "root"
        for name in ("elements", "root", "cache", "output"):
            (work / name).mkdir()
        hook_files.stage_elements(self._plan.elements, elements)
        return Sandbox(
            root,
            ROOT_ELEMENT if self._makes_root else ELEMENT,
            host_programs=True,
            read_only={elements: env.ELEMENTS},
            writable={
                hooks: env.HOOKS,
                tree: env.TREE,
                work / "cache": env.CACHE,
                work / "output": env.OUTPUT,
            },
            network=self._plan.network,
        )

    def _in_tree(self, tree: Path, argv: Sequence[str], run: StageRun, **more: str) -> None:
        variables = {"PATH": env.INSIDE_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **more}
        log = run.logs / f"{self.name}.log"
        Sandbox(tree, ELEMENT, network=self._plan.network).run(
            argv, env=variables, timeout=600, log=log, what="preparing or tidying up the tree"
        )


class RootPhase(
    ElementPhase, phase="root.d", title="preparing the tree for elements", outside=True
):
    """root.d; then the tree gets the resolver of this host for as long as elements run."""

    def _after(self, tree: Path, run: StageRun) -> None:
        path = Path("/etc/resolv.conf")
        text = path.read_text(errors="replace") if self._plan.network and path.is_file() else ""
        self._in_tree(tree, ["sh", "-c", BEGIN], run, RESOLV_CONF=text)
        if self._plan.network and not self._plan.provided:
            with tree_files(tree) as files:
                fetching.begin(files, self._guest, self._plan.fetched)
            # As the elements that make a Debian root do: package lists are there from the start.
            self._in_tree(tree, ["apt-get", "update"], run, **self._proxy())


class ExtraDataPhase(
    ElementPhase, phase="extra-data.d", title="gathering the data of elements", outside=True
):
    """extra-data.d: data and lists are put into tree and hooks."""


class PreInstallPhase(
    ElementPhase, phase="pre-install.d", title="running elements before the installation"
):
    """pre-install.d, in the tree."""


class InstallPhase(ElementPhase, phase="install.d", title="running the installation of elements"):
    """install.d, in the tree."""


class PostInstallPhase(
    ElementPhase, phase="post-install.d", title="running elements after the installation"
):
    """post-install.d, in the tree."""


class PostRootPhase(
    ElementPhase, phase="post-root.d", title="running elements on the whole tree", outside=True
):
    """post-root.d, beside the tree."""


class PreFinalisePhase(
    ElementPhase, phase="pre-finalise.d", title="running elements before the end", outside=True
):
    """pre-finalise.d, beside the tree."""


class FinalisePhase(
    ElementPhase, phase="finalise.d", title="running the last elements in the tree"
):
    """finalise.d, in the tree."""


class CleanupPhase(
    ElementPhase, phase="cleanup.d", title="cleaning up after elements", outside=True
):
    """cleanup.d; then what the elements needed is taken out again, and packages are listed."""

    PACKAGES: ClassVar[str] = "elements-packages.json"
    shared: ClassVar[bool] = True

    def __init__(self, context: BuildContext, plan: ElementPlan, tree: str, hooks: str) -> None:
        super().__init__(context, plan, tree, hooks)
        self.makes = (*self.makes, self.PACKAGES)

    def _after(self, tree: Path, run: StageRun) -> None:
        self._in_tree(tree, ["sh", "-c", FINISH], run)
        if self._swaps_mirrors:
            with tree_files(tree) as files:
                fetching.end(files, self._guest)
        packages = list_packages(tree, run.logs / "packages.log")
        (run.output / self.PACKAGES).write_text(json.dumps(packages, indent=1))


STAGES: tuple[type[ElementPhase], ...] = (
    RootPhase,
    ExtraDataPhase,
    PreInstallPhase,
    InstallPhase,
    PostInstallPhase,
    PostRootPhase,
    PreFinalisePhase,
    FinalisePhase,
    CleanupPhase,
)


def element_stages(context: BuildContext, plan: ElementPlan, tree: str) -> list[ElementPhase]:
    """The stages that run ``plan`` on the artefact ``tree`` ("" where an element makes it)."""
    stages: list[ElementPhase] = []
    hooks = ""
    wanted = plan.phases()
    for kind in STAGES:
        if kind.phase in wanted:
            stage = kind(context, plan, tree, hooks)
            stages.append(stage)
            tree, hooks = stage.tree_artefact, stage.hooks_artefact
    return stages
