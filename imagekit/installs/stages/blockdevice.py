"""Makes the raw disk by diskimage-builder's own block-device layer, and looks at what it made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk.layout import Ids
from imagekit.errors import HostError, ImageError, SpecError, ToolError
from imagekit.guest.appliance import Drive, appliance
from imagekit.guest.inspect import survey
from imagekit.host.run import run as run_tool
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import BLOCK_DEVICE
from imagekit.host.tools import require
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.elements import environment as env
from imagekit.installs.elements.blockdevice import IMAGE, BlockDevice
from imagekit.installs.elements.catalogue import dib_version, library_path
from imagekit.installs.stages.bootequipment import boot_equipment, write_equipment
from imagekit.installs.stages.image import Image
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.stage import StageRun

SHIPS = ("../elements/disk",)
TOOLS = Path(__file__).parents[1] / "elements/disk"
INSIDE = "/imagekit/disk"
TIMEOUT = 3600.0


class BlockDeviceImage(Image):
    """One raw image of a tree, laid out by a block-device configuration; needs loop devices."""

    title: ClassVar[str] = "making the disk by its block-device configuration"
    makes = ("disk.raw", "harvest.json")

    def __init__(self, context: BuildContext, config: BlockDevice) -> None:
        super().__init__(context)
        self._config = config

    def key(self) -> Mapping[str, Any]:
        return {
            **super().key(),
            "block device": list(self._config.entries),
            "diskimage-builder": dib_version(),
            "makers": tool_versions(self._config.tools()),
        }

    def check(self) -> None:
        super().check()
        if not Path("/dev/loop-control").exists():
            raise HostError(
                "this host has no loop devices, which install.block_device needs",
                where=self._file.where("install", "block_device"),
                hint="leave it out: imagekit lays out the disk of disk: without any device",
            )
        for tool in self._config.tools():
            require(tool)

    def run(self, run: StageRun) -> None:
        epoch = self._context.epoch
        ids = Ids(self._context.seed)
        config = self._config.identified(ids)
        layout = config.layout()
        root = layout.find("root")
        assert root is not None  # noqa: S101 - the configuration was checked for it
        cmdline = f"root=UUID={root.fs_uuid} ro {self._spec.boot.cmdline}".strip()
        tree = open_tree(run, "tree.tar", epoch=epoch)
        self._apply(tree, layout, cmdline, run.inputs["release"].read_text(), run)
        image = run.output / f"{IMAGE}.raw"
        detach(lost_loops())
        try:
            self._make_disk(config, tree, run)
        finally:
            detach(loops_of(image))
        disk = image.rename(run.output / "disk.raw")
        disk.chmod(0o600)
        self._look(disk, run)

    def _make_disk(self, config: BlockDevice, tree: Path, run: StageRun) -> None:
        work = run.workspace.temporary("block-device")
        for name in ("root", "build"):
            (work / name).mkdir()
        build = work / "build"
        (build / "config.yaml").write_text(json.dumps(list(config.entries)))
        parameters = config.parameters(
            config=f"{env.BUILD}/config.yaml",
            images=env.OUTPUT,
            build=env.BUILD,
            mounts=f"{env.BUILD}/mnt",
        )
        (build / "params.yaml").write_text(json.dumps(parameters))
        sandbox = Sandbox(
            work / "root",
            BLOCK_DEVICE,
            host_programs=True,
            read_only={TOOLS: INSIDE},
            writable={build: env.BUILD, run.output: env.OUTPUT, tree: f"{env.BUILD}/built"},
        )
        variables = {
            "PATH": f"{INSIDE}/bin:{env.OUTSIDE_PATH}",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "BUILD": env.BUILD,
            "_LIB": str(library_path("lib")),
            "DIB_PYTHON_EXEC": sys.executable,
            "DIB_BLOCK_DEVICE_PARAMS_YAML": f"{env.BUILD}/params.yaml",
            "DIB_DEBUG_TRACE": "1",
        }
        try:
            sandbox.run(
                [f"{INSIDE}/make-disk"],
                env=variables,
                cwd=env.OUTPUT,
                timeout=TIMEOUT,
                log=run.logs / "block-device.log",
                what="making the disk by its block-device configuration",
            )
        except ToolError as error:
            if "No space left on device" in error.output:
                raise SpecError(
                    "the guest does not fit on its disk",
                    where=self._file.where("disk", "size"),
                    hint="make disk.size larger, or partitions of install.block_device",
                ) from None
            error.where = self._file.where("install", "block_device")
            raise

    def _look(self, disk: Path, run: StageRun) -> None:
        scratch = run.workspace.temporary("kernels")
        with appliance([Drive(disk, "raw")], workspace=run.workspace) as app:
            found = survey(app, "raw", disk.stat().st_size, scratch)
        if found.root is None or not found.root.system:
            said = "; ".join(found.warnings) or "no system was found"
            raise ImageError(
                f"the disk that diskimage-builder made holds no system: {said}",
                where=self._file.where("install", "block_device"),
            )
        write_equipment(boot_equipment(found), run.output / "harvest.json")


def _loops() -> list[dict[str, Any]]:
    argv = ["losetup", "--list", "--json", "--output", "NAME,BACK-INO,BACK-FILE"]
    text = run_tool(argv, what="listing loop devices").text
    found: list[dict[str, Any]] = json.loads(text)["loopdevices"] if text.strip() else []
    return found


def loops_of(image: Path) -> list[str]:
    """Loop devices of the file ``image``, those on top of them first."""
    if not image.exists():
        return []
    inode = image.stat().st_ino
    return _with_partitions(lambda loop: loop["back-ino"] == inode)


def lost_loops() -> list[str]:
    """Loop devices of disks that a killed build has left, and that were removed since."""
    return _with_partitions(lambda loop: str(loop["back-file"]).endswith(" (deleted)"))


def _with_partitions(ours: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    # A file of a sandbox that is gone is shown by its path in the mount, which is its name alone.
    files = (f"/{IMAGE}.raw", f"/{IMAGE}.raw (deleted)", f"{env.OUTPUT}/{IMAGE}.raw")
    loops = _loops()
    disks = [x["name"] for x in loops if x["back-file"] in files and ours(x)]
    nodes = {f"/{Path(name).name}" for name in disks} | set(disks)
    return [*(x["name"] for x in loops if x["back-file"] in nodes), *disks]


def detach(loops: list[str]) -> None:
    """Detach loop devices; the kernel waits with one in use until it is not."""
    for name in loops:
        run_tool(["losetup", "--detach", name], check=False)
