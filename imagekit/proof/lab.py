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
from imagekit.errors import ImageError, LabError, ToolError
from imagekit.host.apt_sources import without_credentials
from imagekit.host.chroot import chroot
from imagekit.installs.stages.mirrors import mirrors_for, still_there
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.stages.trees import open_tree
from imagekit.kernel.codecs import decompress, detect
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_file
from imagekit.pipeline.store import Store
from imagekit.proof import initrd
from imagekit.proof.emulator import EmulatorArchive
from imagekit.proof.machine import LabFiles, Shape, lab_files, machine
from imagekit.proof.nested import nested_kvm
from imagekit.proof.selfcheck.stage import CheckLab
from imagekit.proof.selfcheck.verdict import LabCheck
from imagekit.proof.tools import LabTools, build_tools
from imagekit.proof.unpack import LIBRARY
from imagekit.proof.versions import LabVersions, describe_tree, lab_versions
from imagekit.proof.xens import LabXen
from imagekit.spec.load import SpecFile, load_spec

INSIDE = Path(__file__).parent / "dom0"
COPIED = tuple(p for p in sorted(INSIDE.glob("*.*")) if p.name != "__init__.py")
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
MAX_MODULE_BYTES = 32 << 20
UUID_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
# What guests never need of dom0's packages: most of the modules and of the device firmware.
UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt"),
    *("var/lib/apt/lists", "usr/lib/debug"),
)


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


class LabImage(Stage):
    """Disk, kernel and initrd of dom0, and the hypervisor, from the tree of packages."""

    name: ClassVar[str] = "lab-image"
    title: ClassVar[str] = "making the dom0 that proves guests"
    needs = ("rootfs.tar",)
    makes = ("dom0.img", "xen", "vmlinuz", "initrd", "versions.json")

    def __init__(self, file: SpecFile, tools: LabTools) -> None:
        self._size = file.spec.disk.size
        self._firmware = tools.firmware
        self._unpack = tools.unpack

    def key(self) -> Mapping[str, Any]:
        return {
            "code": 4,
            "inside": {p.name: digest_file(p) for p in COPIED},
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
        described = describe_tree(tree, run.logs / "chroot.log")
        (run.output / "versions.json").write_text(described)
        _trim(tree, release, modules)
        _install(tree, self._unpack)
        _replace_firmware(tree, self._firmware.path)
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

    def __init__(self, shape: Shape, emulator: EmulatorArchive) -> None:
        self._shape = shape
        self._emulator = emulator

    def key(self) -> Mapping[str, Any]:
        return {
            "code": 2,
            "machine": vars(self._shape),
            "emulator": self._emulator.sha256,
        }

    def run(self, run: StageRun) -> None:
        share = run.workspace.temporary("share")
        read_only = run.workspace.temporary("files")
        scratch = run.workspace.temporary("lab")
        files = lab_files(run.inputs, self._emulator)
        options = {"share": share, "read_only": read_only, "scratch": scratch}
        with machine(self._shape, files, **options) as running:
            running.wait_for("LAB-READY", 180)
            running.save(run.output / "state")


def lab_plan(
    xen: LabXen, shape: Shape, tools: LabTools, *, state: bool, saved: bool = True
) -> Plan:
    """The stages that make and check the lab of ``xen`` from its shipped spec.

    HVM guests get the firmware of ``tools``. ``state`` asks for the saved state. The check serves
    machines of every size: it is made in the usual one, from its saved state if that can be
    ``saved``.
    """
    usual = replace(shape, memory_mib=Shape().memory_mib)
    file = load_spec(xen.spec)
    install = file.spec.debootstrap
    packages = sorted({*install.packages, *xen.added, str(install.kernel)})
    image = LabImage(file, tools)
    check = CheckLab(usual, tools, state=saved)
    stages: list[Stage] = [LabRootfs(file, mirrors_for(file), packages), image, check]
    if saved:
        stages.append(LabState(usual, tools.emulator))
    names = [*image.makes, *check.makes, *(["state"] if state else [])]
    return make_plan(stages, [Target(name, name, "lab") for name in names])


@dataclass(frozen=True)
class Lab:
    """A lab that is right: its machine, what it boots, its saved state (if any), what it is of."""

    shape: Shape
    files: LabFiles
    state: Path | None
    tools: LabTools
    versions: LabVersions
    check: LabCheck


def best_lab(
    xen: LabXen, shape: Shape, events: Events, *, state: bool = True, fresh: bool = False
) -> Lab:
    """The lab by KVM where nesting works and the self-check passes, else by emulation.

    Otherwise as :func:`build_lab`.
    """
    if nested_kvm().works:
        try:
            fast = replace(shape, accelerator="kvm")
            return build_lab(xen, fast, events, state=state, fresh=fresh)
        except (LabError, ToolError) as error:
            events.emit("warning", text=f"KVM does not run the lab, emulation does: {error.what}")
    return build_lab(xen, shape, events, state=state, fresh=fresh)


def build_lab(
    xen: LabXen, shape: Shape, events: Events, *, state: bool = True, fresh: bool = False
) -> Lab:
    """The lab of ``xen`` from the store, or built and checked now.

    Raises LabError when it does not work. Without ``state``, which only the usual size of a
    machine has, no saved state is given.
    """
    guest = f"imagekit-lab-{xen.version}"
    tools = build_tools(events, fresh=fresh)
    plan = lab_plan(xen, shape, tools, state=state)
    try:
        results = _run(plan, events, guest, fresh=fresh)
    except ToolError as error:
        if "saved" not in error.what:
            raise
        events.emit("warning", text=error.what)
        plan = lab_plan(xen, shape, tools, state=False, saved=False)
        results = _run(plan, events, guest, fresh=False)
    wanted = {target.artefact for target in plan.targets}
    found = {
        name: path
        for result in results.values()
        for name, path in result.entry.files.items()
        if name in wanted
    }
    image = results[LabImage.name].entry
    check = LabCheck.read(found["check.json"])
    versions = lab_versions(found["versions.json"], image.info.get("sha256", {}), tools)
    versions = replace(versions, accelerator=shape.accelerator, check=str(check))
    files = lab_files(found, tools.emulator)
    return Lab(shape, files, found.get("state"), tools, versions, check)


def _run(plan: Plan, events: Events, guest: str, *, fresh: bool) -> dict[str, StageResult]:
    return execute(plan, Store(), events, guest=guest, fresh=fresh, digest=sha256_sparse)


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
        initrd.file(f"modules/{name}", _plain(base / path))
        for name, path in zip(names, modules, strict=True)
    ]
    items.append(initrd.file("modules/order", "".join(f"{n}\n" for n in names).encode()))
    return initrd.newc(items)


def _plain(module: Path) -> bytes:
    """A driver as an ELF file; Debian 13 has them compressed."""
    data = module.read_bytes()
    codec = detect(data)
    return decompress(data, codec, where=str(module), limit=MAX_MODULE_BYTES) if codec else data


def _trim(tree: Path, release: str, modules: list[str]) -> None:
    for name in (*UNUSED, f"usr/lib/modules/{release}", f"lib/modules/{release}", "boot"):
        shutil.rmtree(tree / name, ignore_errors=True)


def _install(tree: Path, unpack: Path) -> None:
    """Put dom0's first process and its agent into the tree, and the library for xl."""
    home = tree / "usr/lib/imagekit"
    package = home / "imagekit/proof/dom0"
    package.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(INSIDE / "init.sh", home / "init")
    (home / "init").chmod(0o755)
    for source in COPIED:
        if source.suffix == ".py":
            shutil.copyfile(source, package / source.name)
    shutil.copyfile(unpack, home / LIBRARY)


def _replace_firmware(tree: Path, firmware: Path) -> None:
    target = tree / FIRMWARE
    if target.is_symlink() or not target.is_file():
        raise ImageError(f"the lab's packages brought no firmware at /{FIRMWARE}")
    target.write_bytes(firmware.read_bytes())
