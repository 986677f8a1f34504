"""diskimage-builder's block-device configurations: read, checked by its own code, completed.

The grammar is that of "Disk Image Layout" in diskimage-builder's user guide; its block_device
package turns the tree form into the flat one that is kept here.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.disk.layout import Ids, Layout, Part, Role
from imagekit.errors import SpecError
from imagekit.installs.elements.catalogue import library_path
from imagekit.spec.derived import effective_disk
from imagekit.spec.load import SpecFile

MAX_CONFIG = 64 << 10
IMAGE = "image0"
"""The one name of a disk that disk-image-create itself looks for (cmd_getval)."""
ROOT_MKFS = "mkfs_root"
FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "vfat", "swap")
WITH_UUID = ("ext2", "ext3", "ext4", "xfs", "swap")
"""File systems that diskimage-builder makes with the UUID it is told (level2/mkfs.py)."""
ROLES: dict[str, Role] = {"/": "root", "/boot": "boot"}
Entry = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class BlockDevice:
    """A checked configuration in diskimage-builder's flat form; ``size`` of the disk in bytes."""

    entries: tuple[Entry, ...]
    size: int
    filesystem: str

    def kind(self, name: str) -> Iterator[dict[str, Any]]:
        """The settings of every entry of the plugin ``name``."""
        for entry in self.entries:
            if name in entry:
                yield entry[name]

    @property
    def table(self) -> str:
        """The partition table: gpt, mbr or none."""
        return next((str(e["label"]) for e in self.kind("partitioning")), "none")

    def tools(self) -> list[str]:
        """Programs that making the disk needs."""
        made = {f"mkfs.{e['type']}" for e in self.kind("mkfs") if e["type"] != "swap"}
        more = ["sgdisk"] if self.table == "gpt" else []
        return ["losetup", "partx", *more, *sorted(made)]

    def identified(self, ids: Ids) -> BlockDevice:
        """The same with a UUID for every file system that can be told one."""
        entries = copy.deepcopy(self.entries)
        for entry in entries:
            made = entry.get("mkfs")
            if made is not None and made["type"] in WITH_UUID:
                made.setdefault("uuid", ids.uuid())
        return BlockDevice(entries, self.size, self.filesystem)

    def layout(self) -> Layout:
        """The file systems as imagekit knows them; nobody asks where they lie."""
        mounts = {e["base"]: str(e["mount_point"]) for e in self.kind("mount")}
        parts = []
        for made in self.kind("mkfs"):
            mount = mounts.get(made["name"], "")
            kind = str(made["type"])
            role: Role = "swap" if kind == "swap" else ROLES.get(mount, "data")
            parts.append(Part(0, role, 0, 0, "", str(made.get("uuid", "")), kind, mount))
        table: Any = self.table
        return Layout(table, self.size, "", tuple(p for p in parts if p.mount or p.role == "swap"))

    def parameters(self, *, config: str, images: str, build: str, mounts: str) -> dict[str, str]:
        """The parameter file of dib-block-device, as lib/disk-image-create writes it."""
        return {
            "config": config,
            "image-dir": images,
            "image-size": f"{self.size}B",
            "root-fs-type": self.filesystem,
            "root-label": "root",
            "mount-base": mounts,
            "build-dir": build,
        }


def read_block_device(file: SpecFile, name: str) -> BlockDevice:
    """The configuration in the file that the spec calls ``name``.

    Raises SpecError for one that diskimage-builder refuses, and for what this build cannot make.
    """
    path = file.resolve(name)
    spec = file.spec
    size = effective_disk(spec.disk).size
    try:
        value = _load(path)
        entries = _checked(value, spec.disk.filesystem, size)
        found = BlockDevice(tuple(entries), size, spec.disk.filesystem)
        _check_disk(found)
        _check_root(found)
    except SpecError as error:
        error.where = f"{file.where('install', 'block_device')}: {path}"
        raise
    return found


def _load(path: Path) -> Any:
    library_path("lib")
    yaml = importlib.import_module("yaml")  # what diskimage-builder itself reads it with
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CONFIG + 1)
    except OSError as error:
        raise SpecError(f"cannot read the block-device configuration: {error.strerror}") from None
    if len(text) > MAX_CONFIG:
        raise SpecError("the block-device configuration is larger than 64 KiB")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise SpecError("the block-device configuration has aliases", hint="write them out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"is no YAML: {' '.join(str(error).split())[:200]}") from None


def _checked(value: Any, filesystem: str, size: int) -> list[Entry]:
    """``value`` in the flat form, completed as disk-image-create does, accepted by its code."""
    config = importlib.import_module("diskimage_builder.block_device.config")
    state = importlib.import_module("diskimage_builder.block_device.blockdevice")
    logging.getLogger("diskimage_builder").setLevel(logging.CRITICAL)
    if not isinstance(value, list) or not value:
        raise SpecError("a block-device configuration is a list, beginning with local_loop")
    try:
        entries: list[Entry] = config.config_tree_to_graph(value)
        _refuse_lvm(entries)
        for entry in entries:
            made = entry.get("mkfs", {})
            if made.get("name") == ROOT_MKFS:
                made.setdefault("type", filesystem)
                made.setdefault("label", "root")
        found = BlockDevice(tuple(entries), size, filesystem)
        parameters = found.parameters(config="", images="/", build="/", mounts="/")
        config.create_graph(copy.deepcopy(entries), parameters, state.BlockDeviceState())
    except SpecError:
        raise
    except Exception as error:  # its code checks little, and fails in any way at what is odd
        said = " ".join(str(error).split())[:300]
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise SpecError(f"diskimage-builder refuses the configuration: {what}") from None
    try:
        plain: list[Entry] = json.loads(json.dumps(entries))
    except (TypeError, ValueError, RecursionError):
        raise SpecError("has a value that is neither text nor a number", hint="quote it") from None
    return plain


def _refuse_lvm(entries: list[Entry]) -> None:
    if any("lvm" in entry for entry in entries):
        raise SpecError(
            "lvm needs device-mapper, and disks are made here without it",
            hint="leave install.block_device out and set disk: {lvm: true}: imagekit makes volumes "
            "without device-mapper",
        )


def _check_disk(found: BlockDevice) -> None:
    loops = list(found.kind("local_loop"))
    if [loop["name"] for loop in loops] != [IMAGE]:
        raise SpecError(f"there must be one local_loop, with the name {IMAGE}: a guest has a disk")
    loop = loops[0]
    if "directory" in loop:
        raise SpecError("local_loop has a directory: imagekit says where the disk is made")
    if str(loop.get("block_size", 512)) != "512":
        raise SpecError("block_size must be 512: virtual disks of Xen have such sectors")
    if "size" in loop:
        utils = importlib.import_module("diskimage_builder.block_device.utils")
        size = int(utils.parse_abs_size_spec(str(loop["size"])))
        if size != found.size:
            raise SpecError(
                f"local_loop has {size} bytes and the spec's disk has {found.size}",
                hint="leave size out: disk.size counts",
            )
    for made in found.kind("mkfs"):
        if made["type"] not in FILESYSTEMS:
            raise SpecError(
                f"the file system {made['type']} is not one of {', '.join(FILESYSTEMS)}"
            )
        try:
            uuid.UUID(str(made.get("uuid", uuid.UUID(int=0))))
        except ValueError:
            raise SpecError(f"{made['name']}: {made['uuid']!r} is no UUID") from None


def _check_root(found: BlockDevice) -> None:
    made = {e["name"]: e for e in found.kind("mkfs")}
    points = {}
    for mount in found.kind("mount"):
        point = str(mount["mount_point"])
        if not point.startswith("/") or ".." in point.split("/"):
            raise SpecError(f"mount_point {point!r} is not a path in the guest")
        if mount["base"] not in made:
            raise SpecError(f"{point} is mounted from {mount['base']}, which is no mkfs")
        points[point] = str(made[mount["base"]]["type"])
    if "/" not in points:
        raise SpecError("nothing is mounted on /")
    if points["/"] != found.filesystem:
        raise SpecError(
            f"the root is {points['/']}, and disk.filesystem is {found.filesystem}",
            hint=f"set disk: {{filesystem: {points['/']}}}, so that the initrd can mount it",
        )
    if points.get("/boot", "ext4") not in WITH_UUID:
        raise SpecError(f"/boot is {points['/boot']}, which has no UUID to boot from")
