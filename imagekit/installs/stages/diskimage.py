"""Runs the whole of diskimage-builder's disk-image-create and takes the tree it made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ToolError
from imagekit.guest.backends.tree import tree_files
from imagekit.host.run import run as run_tool
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.means import tmpfs_idmapped
from imagekit.host.sandbox.profiles import ROOT_ELEMENT
from imagekit.installs.context import BuildContext
from imagekit.installs.elements import environment as env
from imagekit.installs.elements import hooks as hook_files
from imagekit.installs.elements.catalogue import dib_version
from imagekit.installs.elements.failures import explain, last_phase
from imagekit.installs.elements.planning import ElementPlan
from imagekit.installs.stages import fetching
from imagekit.installs.stages.aptfiles import SOURCES_LIST
from imagekit.installs.stages.elements import list_packages
from imagekit.installs.stages.trees import hand_over, pack, unpack
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.install import DiskimageBuilder

BUILD_ESTIMATE = 4 << 30
"""Bytes reserved on tmpfs: the tree, twice for a moment when it is copied."""
SEED = "rootfs.tar"
"""imagekit's own tree, for builds whose elements provide no operating system."""
SKIP_BASE = "-n"
"""disk-image-create adds the element "base" to every build unless told not to."""


class DiskImageCreate(Stage):
    """disk-image-create from beginning to end, in a sandbox, without a disk of its own."""

    name: ClassVar[str] = "disk-image-create"
    title: ClassVar[str] = "running disk-image-create"
    TREE: ClassVar[str] = "image.tar"
    PACKAGES: ClassVar[str] = "image-packages.json"
    makes = (TREE, PACKAGES)

    def __init__(self, context: BuildContext, install: DiskimageBuilder, plan: ElementPlan) -> None:
        self._file = context.file
        self._epoch = context.epoch
        self._archive = context.archive
        self._install = install
        self._plan = plan
        if not plan.provided:
            self.needs = (SEED,)

    def key(self) -> Mapping[str, Any]:
        return {
            "elements": [e.name for e in self._plan.elements],
            "scripts": [self._plan.phase_digest(phase) for phase in self._plan.phases()],
            "element files": self._plan.shared_digest(),
            "environment": self._plan.keyed_environment(),
            "guest sources": list(self._plan.guest),
            "archive": self._archive if self._plan.provided else "",
            "diskimage-builder": dib_version(),
            "epoch": self._epoch,
        }

    def run(self, run: StageRun) -> None:
        work = run.workspace.temporary(self.name)
        for name in ("elements", "root", "cache", "output"):
            (work / name).mkdir()
        size = BUILD_ESTIMATE if tmpfs_idmapped() else None
        build = run.workspace.temporary("build", size_bytes=size)
        hook_files.stage_elements(self._plan.elements, work / "elements")
        self._create(work, build, run)
        image = work / "output/image.tar"
        tree = run.workspace.temporary("tree", size_bytes=image.stat().st_size * 2)
        unpack(image, tree, run.logs / "unpack.log")
        image.unlink()
        if not self._plan.provided:
            with tree_files(tree) as files:
                fetching.end(files, self._plan.guest)
        packages = list_packages(tree, run.logs / "packages.log")
        (run.output / self.PACKAGES).write_text(json.dumps(packages, indent=1))
        pack(tree, run.output / self.TREE, run.logs / "tar.log", epoch=self._epoch)
        hand_over(run.workspace, run.output / self.TREE, tree)

    def _seed(self, work: Path, run: StageRun) -> Path:
        """imagekit's tree as a tar file, in which apt fetches from where this host does."""
        seed = run.inputs[SEED]
        fetched = self._plan.fetched
        if not fetched or fetched == self._plan.guest:
            return seed
        changed = work / SEED
        shutil.copyfile(seed, changed)
        listed = work / SOURCES_LIST.lstrip("/")
        listed.parent.mkdir(parents=True)
        listed.write_text(fetching.lines_of([fetching.MARK, *fetched]))
        argv = ["tar", "--append", "--format=posix", "--owner=0", "--group=0", "--mode=0644"]
        # Of two members of one name the later is what an extracted tree has (tar(1), --append).
        run_tool([*argv, "-C", str(work), "-f", str(changed), f".{SOURCES_LIST}"])
        return changed

    def _create(self, work: Path, build: Path, run: StageRun) -> None:
        sandbox = Sandbox(
            work / "root",
            ROOT_ELEMENT,
            host_programs=True,
            read_only={
                work / "elements": env.ELEMENTS,
                **({} if self._plan.provided else {self._seed(work, run): f"/imagekit/{SEED}"}),
            },
            writable={
                build: env.BUILD,
                work / "cache": env.CACHE,
                work / "output": env.OUTPUT,
            },
            network=True,
        )
        plan = self._plan
        argv = ["bash", f"{plan.environment['_LIB']}/disk-image-create"]
        argv += ["-a", self._file.spec.os.arch, "-o", f"{env.OUTPUT}/image", "-t", "tar"]
        argv += ["--no-tmpfs", *([] if "base" in self._install.elements else [SKIP_BASE])]
        names = [*self._install.elements, *plan.added]
        log = run.logs / "disk-image-create.log"
        variables = env.making_root(env.for_disk_image_create(plan.environment))
        proxy = self._file.spec.os.proxy
        if proxy:
            variables |= dict.fromkeys(("http_proxy", "https_proxy"), proxy)
        try:
            sandbox.run(
                [*argv, *names],
                env=variables,
                cwd=env.OUTPUT,
                timeout=self._install.timeout,
                log=log,
                what="disk-image-create",
            )
        except ToolError as error:
            phase = last_phase(log)
            told = explain(error, log, plan.elements, phase, network=True) if phase else error
            told.where = self._file.where("install", "elements")
            raise told from None
        if not re.search(r"Build completed successfully", log.read_text(errors="replace")):
            run.note("disk-image-create ended without saying that it was successful")
