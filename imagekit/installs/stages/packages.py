"""Adds the packages of one spec to the tree of packages that specs of a suite share.

A build with an empty store takes the same two steps, so that a stored base gives what it gives.
Base and addition are of the same state of the mirrors: that is part of the keys of both.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from imagekit.guest.backends.tree import tree_files
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.aptfiles import SOURCES_LIST, SOURCES_PARTS
from imagekit.installs.stages.bootstrap import HOOKS_INSIDE, Bootstrap
from imagekit.installs.stages.rootfs import LISTS, RESOLV_CONF, Rootfs
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.stage import StageRun


class Packages(Rootfs):
    """The packages of the spec, installed into ``rootfs.tar``, a base that knows none of them."""

    name: ClassVar[str] = "packages"
    title: ClassVar[str] = "adding the spec's packages to the tree"
    needs = ("rootfs.tar",)
    makes = ("packages.tar", "packages-all.json", "sources-all.json")

    def __init__(self, context: BuildContext, mirrors: Mirrors, packages: list[str]) -> None:
        """``packages`` are those beyond the base."""
        super().__init__(context, mirrors, packages)

    def _tree(self, parent: Path, run: StageRun) -> Path:
        lists = run.workspace.handed_over(Path(LISTS))
        if lists is not None:  # those of this run: apt asks whether they are new
            shutil.copytree(lists, parent / "sources" / LISTS)
        return open_tree(run, self.needs[0], epoch=self._epoch)

    def _mmdebstrap(self, boot: Bootstrap, stage_run: StageRun) -> None:
        with tree_files(boot.tree) as files:
            # mmdebstrap leaves what is there: the guest's own sources, without keys and passwords.
            for name in (
                SOURCES_LIST,
                *(f"{SOURCES_PARTS}/{n}" for n in files.names(SOURCES_PARTS)),
            ):
                files.remove(name)
            # A link into /run leads nowhere yet, and mmdebstrap would write through it.
            status = files.lstat(RESOLV_CONF)
            link = files.readlink(RESOLV_CONF) if status is not None and status.is_link else None
            if link is not None:
                files.remove(RESOLV_CONF)
        super()._mmdebstrap(boot, stage_run)
        if link is not None:
            with tree_files(boot.tree) as files:
                if files.read(RESOLV_CONF) == Path(RESOLV_CONF).read_bytes():
                    files.link(RESOLV_CONF, link)

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "IMAGEKIT_ADDED": " ".join(self._packages)}

    def _options(self) -> list[str]:
        return ["--variant=custom", f"--customize-hook={HOOKS_INSIDE}/install.sh"]

    def _wanted(self) -> list[str]:
        return self._packages
