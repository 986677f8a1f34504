"""Builds the lab: the hypervisor and a small dom0, made by imagekit's own stages and stored."""

from __future__ import annotations

import gzip
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk import filesystem
from imagekit.disk.extents import sha256_sparse
from imagekit.errors import ImageError, ToolError
from imagekit.host.chroot import chroot
from imagekit.host.versions import package_versions
from imagekit.installs.stages.mirrors import mirrors_for
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.trees import open_tree
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_file
from imagekit.pipeline.store import Store
from imagekit.proof import initrd
from imagekit.proof.firmware import Firmware, build_firmware
from imagekit.proof.machine import QEMU_PACKAGES, LabFiles, Shape, lab_files, machine
from imagekit.proof.selfcheck.programs import Programs, build_programs
from imagekit.proof.selfcheck.stage import CheckLab
from imagekit.proof.selfcheck.verdict import LabCheck
from imagekit.spec.load import SpecFile, load_spec

SPEC = Path(__file__).parent / "lab.yaml"
INSIDE = Path(__file__).parent / "dom0"
XEN_PACKAGES = ("xen-hypervisor-4.17-amd64", "xen-utils-4.17", "qemu-system-xen")
BOOT_DRIVERS = ("virtio_pci", "virtio_blk", "ext4")
DRIVERS = (
    *("virtio_scsi", "sd_mod", "9p", "9pnet_virtio", "xenfs", "xen-privcmd", "xen-evtchn"),
    *("xen-gntdev", "xen-gntalloc", "xen-blkback", "xen-blkfront", "xen-netback", "bridge"),
    *("loop", "tun"),
)
"""xen-blkfront is for dom0 itself: libxl attaches a qcow2 to dom0 before pygrub reads it."""

FIRMWARE = "usr/share/seabios/bios-256k.bin"
"""What Debian's libxl hands to hvmloader (xen, debian/rules: --with-system-seabios)."""

MAX_XEN_BYTES = 64 << 20
UUID_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
# What guests never need of dom0's packages: most of the modules and of the device firmware.
UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt"),
    *("var/lib/apt/lists", "usr/lib/debug"),
)


class LabRootfs(Rootfs):
    """The packages of dom0; made anew when the Xen packages of this host change."""

    name: ClassVar[str] = "lab-rootfs"
    title: ClassVar[str] = "installing the dom0 that proves guests"

    def key(self) -> Mapping[str, Any]:
        return {**super().key(), "xen": package_versions(XEN_PACKAGES)}


class LabImage(Stage):
    """Disk, kernel and initrd of dom0, and the hypervisor, from the tree of packages."""

    name: ClassVar[str] = "lab-image"
    title: ClassVar[str] = "making the dom0 that proves guests"
    needs = ("rootfs.tar",)
    makes = ("dom0.img", "xen", "vmlinuz", "initrd")

    def __init__(self, file: SpecFile, firmware: Firmware) -> None:
        self._size = file.spec.disk.size
        self._firmware = firmware

    def key(self) -> Mapping[str, Any]:
        return {
            "code": 2,
            "inside": {p.name: digest_file(p) for p in sorted(INSIDE.glob("*.*"))},
            "size": self._size,
            "drivers": [*DRIVERS],
            "firmware": self._firmware.sha256,
        }

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar")
        release = _release(tree)
        shutil.copyfile(tree / f"boot/vmlinuz-{release}", run.output / "vmlinuz")
        (run.output / "xen").write_bytes(_hypervisor(tree))
        modules = _modules(tree, release, run.logs / "chroot.log")
        (run.output / "initrd").write_bytes(_initrd(tree, modules))
        _trim(tree, release, modules)
        home = tree / "usr/lib/imagekit"
        home.mkdir(parents=True, exist_ok=True)
        for name, target, mode in (("init.sh", "init", 0o755), ("agent.py", "agent.py", 0o644)):
            shutil.copyfile(INSIDE / name, home / target)
            (home / target).chmod(mode)
        _replace_firmware(tree, self._firmware)
        image = run.output / "dom0.img"
        with image.open("xb") as stream:
            stream.truncate(self._size)
        region = filesystem.Region(image, 0, self._size)
        name = str(uuid.uuid5(UUID_NAMESPACE, release))
        filesystem.make("ext4", tree, region, uuid=name, label="lab", log=run.logs / "mke2fs.log")


class LabState(Stage):
    """dom0 started once and saved where it waits for its first guest."""

    name: ClassVar[str] = "lab-state"
    title: ClassVar[str] = "starting the dom0 that proves guests, to save it"
    needs = ("dom0.img", "xen", "vmlinuz", "initrd")
    makes = ("state",)

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def key(self) -> Mapping[str, Any]:
        return {
            "code": 1,
            "machine": vars(self._shape),
            "qemu": package_versions(QEMU_PACKAGES),
        }

    def run(self, run: StageRun) -> None:
        share = run.workspace.temporary("share")
        read_only = run.workspace.temporary("files")
        scratch = run.workspace.temporary("lab")
        files = lab_files(run.inputs)
        options = {"share": share, "read_only": read_only, "scratch": scratch}
        with machine(self._shape, files, **options) as running:
            running.wait_for("LAB-READY", 180)
            running.save(run.output / "state")


def lab_plan(
    shape: Shape, firmware: Firmware, programs: Programs, *, state: bool, saved: bool = True
) -> Plan:
    """The stages that make and check the lab, from its shipped spec.

    HVM guests get ``firmware``; ``programs`` are those of the check. ``state`` asks for the saved
    state. The check serves machines of every size: it is made in the usual one, from its saved
    state if that can be ``saved``.
    """
    usual = replace(shape, memory_mib=Shape().memory_mib)
    file = load_spec(SPEC)
    install = file.spec.debootstrap
    packages = sorted({*install.packages, str(install.kernel)})
    image = LabImage(file, firmware)
    check = CheckLab(usual, programs, state=saved)
    stages: list[Stage] = [LabRootfs(file, mirrors_for(file), packages), image, check]
    if saved:
        stages.append(LabState(usual))
    names = [*image.makes, *check.makes, *(["state"] if state else [])]
    return make_plan(stages, [Target(name, name, "lab") for name in names])


@dataclass(frozen=True)
class Lab:
    """A lab that is right: what it boots, its saved state (if any), its HVM guests' firmware."""

    files: LabFiles
    state: Path | None
    firmware: Firmware
    check: LabCheck


def build_lab(shape: Shape, events: Events, *, state: bool = True, fresh: bool = False) -> Lab:
    """The lab from the store, or built and checked now; raises LabError when it does not work.

    Without ``state``, which only the usual size of a machine has, no saved state is given.
    """
    firmware = build_firmware(events, fresh=fresh)
    programs = build_programs(events)
    plan = lab_plan(shape, firmware, programs, state=state)
    try:
        results = _run(plan, events, fresh=fresh)
    except ToolError as error:
        if "saved" not in error.what:
            raise
        events.emit("warning", text=error.what)
        plan = lab_plan(shape, firmware, programs, state=False, saved=False)
        results = _run(plan, events, fresh=False)
    wanted = {target.artefact for target in plan.targets}
    found = {
        name: path
        for result in results.values()
        for name, path in result.entry.files.items()
        if name in wanted
    }
    check = LabCheck.read(found["check.json"])
    return Lab(lab_files(found), found.get("state"), firmware, check)


def _run(plan: Plan, events: Events, *, fresh: bool) -> dict[str, StageResult]:
    return execute(plan, Store(), events, guest="imagekit-lab", fresh=fresh, digest=sha256_sparse)


def _release(tree: Path) -> str:
    found = [p.name.removeprefix("vmlinuz-") for p in (tree / "boot").glob("vmlinuz-*")]
    if len(found) != 1:
        raise ImageError(f"the lab's packages brought {len(found)} kernels instead of one")
    return found[0]


def _hypervisor(tree: Path) -> bytes:
    """Xen as an ELF file, which QEMU's multiboot loader takes; the package has it gzipped."""
    found = sorted((tree / "boot").glob("xen-4.*.gz"))
    if not found:
        raise ImageError("the lab's packages brought no hypervisor")
    with gzip.open(found[-1]) as stream:
        data = stream.read(MAX_XEN_BYTES)
    if not data.startswith(b"\x7fELF"):
        raise ImageError(f"{found[-1].name} does not hold an ELF file")
    return data


def _modules(tree: Path, release: str, log: Path) -> list[str]:
    """The drivers' files below /lib/modules/RELEASE in the order in which they load."""
    chroot(tree, ["depmod", release], log=log, what="indexing the lab's modules")
    argv = ["modprobe", "--set-version", release, "--show-depends", "--all"]
    text = chroot(tree, [*argv, *BOOT_DRIVERS, *DRIVERS], log=log, what="listing modules").text
    found = re.findall(rf"^insmod /(?:usr/)?lib/modules/{re.escape(release)}/(\S+)", text, re.M)
    return list(dict.fromkeys(found))


def _initrd(tree: Path, modules: list[str]) -> bytes:
    """busybox, a script and the modules; nothing is searched for and nothing waits."""
    base = next((tree / "lib/modules").iterdir())
    names = [f"{number:02d}-{Path(name).name}" for number, name in enumerate(modules)]
    items = [initrd.directory(name) for name in ("bin", "dev", "modules", "root")]
    items.append(initrd.Item("dev/console", 0o020600, device=(5, 1)))
    items.append(initrd.file("bin/busybox", (tree / "bin/busybox").read_bytes(), 0o755))
    items.append(initrd.file("init", (INSIDE / "initrd.sh").read_bytes(), 0o755))
    items += [
        initrd.file(f"modules/{name}", (base / path).read_bytes())
        for name, path in zip(names, modules, strict=True)
    ]
    items.append(initrd.file("modules/order", "".join(f"{n}\n" for n in names).encode()))
    return initrd.newc(items)


def _trim(tree: Path, release: str, modules: list[str]) -> None:
    for name in (*UNUSED, f"usr/lib/modules/{release}", f"lib/modules/{release}", "boot"):
        shutil.rmtree(tree / name, ignore_errors=True)


def _replace_firmware(tree: Path, firmware: Firmware) -> None:
    target = tree / FIRMWARE
    if target.is_symlink() or not target.is_file():
        raise ImageError(f"the lab's packages brought no firmware at /{FIRMWARE}")
    target.write_bytes(firmware.path.read_bytes())
