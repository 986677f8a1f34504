"""The other formats of the finished disk."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.disk import qcow2, vhd
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.derived import uuid_of


class Qcow2(Stage):
    """The disk as qcow2 version 3."""

    name: ClassVar[str] = "qcow2"
    title: ClassVar[str] = "writing the qcow2 image"
    needs = ("disk.raw",)
    makes = ("disk.qcow2",)
    shared: ClassVar[bool] = False
    quick: ClassVar[bool] = True

    def __init__(self, context: BuildContext) -> None:
        self._compression = context.spec.disk.qcow2_compression

    def key(self) -> Mapping[str, Any]:
        return {"compression": self._compression, "tool": tool_versions(["qemu-img"])}

    def run(self, run: StageRun) -> None:
        qcow2.write_qcow2(
            run.inputs["disk.raw"],
            run.output / "disk.qcow2",
            compression=self._compression,
            progress=run.progress,
        )


class Vhd(Stage):
    """The disk as VHD, dynamic or fixed."""

    name: ClassVar[str] = "vhd"
    title: ClassVar[str] = "writing the VHD image"
    needs = ("disk.raw",)
    makes = ("disk.vhd",)
    shared: ClassVar[bool] = False
    quick: ClassVar[bool] = True

    def __init__(self, context: BuildContext) -> None:
        self._subformat = context.spec.disk.vhd
        self._uuid = uuid_of(context.spec)
        self._epoch = context.epoch

    def key(self) -> Mapping[str, Any]:
        return {"subformat": self._subformat, "uuid": self._uuid, "epoch": self._epoch}

    def run(self, run: StageRun) -> None:
        vhd.write_vhd(
            run.inputs["disk.raw"],
            run.output / "disk.vhd",
            subformat=self._subformat,
            unique_id=uuid.UUID(self._uuid),
            timestamp=int(time.time()) if self._epoch is None else self._epoch,
            progress=run.progress,
        )
