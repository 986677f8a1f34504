"""The stage that makes an installer ISO run by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.answers.context import target_of
from imagekit.errors import ImageError, SpecError
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.remaster import menus
from imagekit.installs.remaster.remaster import remaster
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.install import Iso


class Remaster(Stage):
    """Puts the answers into the ISO and lets its boot menu start by itself."""

    name: ClassVar[str] = "remaster"
    title: ClassVar[str] = "remastering the installer ISO"
    needs = ("source.iso", "answers")
    makes = ("install.iso", "remaster.json")
    shared: ClassVar[bool] = False

    def __init__(self, context: BuildContext, install: Iso) -> None:
        self._file = context.file
        self._install = install
        try:
            for word in install.args.split():
                menus.grub_word(word)
        except SpecError as error:
            error.where = self._file.where("install", "args")
            raise

    def key(self) -> Mapping[str, Any]:
        return {
            "answers": self._install.answers,
            "release": self._install.release,
            **({"args": self._install.args} if self._install.args else {}),
            "tools": tool_versions(["xorriso"]),
        }

    def run(self, run: StageRun) -> None:
        os_ = self._file.spec.os
        kind = self._install.answers
        target = target_of(kind, self._install.release, os_.suite, os_.distribution)
        try:
            result = remaster(
                run.inputs["source.iso"],
                run.output / "install.iso",
                run.inputs["answers"].read_text(),
                scratch=run.workspace.temporary("remaster"),
                kind=kind,
                release=target.name,
                extra_args=self._install.args.split(),
            )
        except (SpecError, ImageError) as error:
            error.where = self._file.where("install", "iso")
            raise
        value = {
            "volume_id": result.volume_id,
            "kind": result.kind,
            "arguments": dict(result.arguments),
            "kernel": result.kernel,
            "initrd": result.initrd,
            "changed": list(result.changed),
        }
        (run.output / "remaster.json").write_text(json.dumps(value, indent=1))
