"""The packages of the lab's dom0."""

from __future__ import annotations

from typing import ClassVar

from imagekit.host.apt_sources import without_credentials
from imagekit.installs.mirrors import still_there
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.pipeline.stage import StageRun


class LabRootfs(Rootfs):
    """The packages of dom0, as the mirror had them that day; ``--fresh-lab`` fetches them anew."""

    name: ClassVar[str] = "lab-rootfs"
    title: ClassVar[str] = "installing the dom0 that proves guests"

    def run(self, run: StageRun) -> None:
        # A guest must not silently do without security updates; a dom0 that no network reaches may.
        before = self._mirrors
        self._mirrors = still_there(before, self._file.spec.os.suite)
        for url, suite in before.sources:
            if (url, suite) not in self._mirrors.sources:
                text = f"{without_credentials(url)} has no {suite}: the lab does without it"
                run.workspace.events.emit("warning", text=text)
        super().run(run)
