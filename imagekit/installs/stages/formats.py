"""The other formats of the finished disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.disk import qcow2, vhd
from imagekit.host.versions import tool_versions
from imagekit.installs.stages.trees import source_date_epoch
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.derived import uuid_of
from imagekit.spec.load import SpecFile


class Qcow2(Stage):
    """The disk as qcow2 version 3."""

    name: ClassVar[str] = "qcow2"
    title: ClassVar[str] = "writing the qcow2 image"
    needs = ("disk.raw",)
    makes = ("disk.qcow2",)

    def __init__(self, file: SpecFile) -> None:
        self._compression = file.spec.disk.qcow2_compression

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

    def __init__(self, file: SpecFile) -> None:
        self._subformat = file.spec.disk.vhd
        self._uuid = uuid_of(file.spec)

    def key(self) -> Mapping[str, Any]:
        epoch = source_date_epoch()
        return {"subformat": self._subformat, "uuid": self._uuid, "epoch": epoch}

    def run(self, run: StageRun) -> None:
        import uuid

        vhd.write_vhd(
            run.inputs["disk.raw"],
            run.output / "disk.vhd",
            subformat=self._subformat,
            unique_id=uuid.UUID(self._uuid),
            timestamp=source_date_epoch(),
            progress=run.progress,
        )
