"""The lab's dom0: its disk, kernel and initrd, and the hypervisor, from the tree of packages."""

from __future__ import annotations

import gzip
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk import filesystem
from imagekit.errors import ImageError
from imagekit.host.chroot import chroot
from imagekit.host.sandbox.profiles import LISTING
from imagekit.installs.stages.trees import open_tree
from imagekit.kernel.codecs import decompress, detect
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.proof import initrd
from imagekit.proof.tools import LabTools
from imagekit.proof.unpack import LIBRARY
from imagekit.proof.versions import describe_tree
from imagekit.spec.load import SpecFile

SHIPS = ("dom0",)
INSIDE = Path(__file__).parent / "dom0"
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
            "size": self._size,
            "drivers": [*DRIVERS],
            "firmware": self._firmware.sha256,
        }

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar", epoch=None)
        release = _release(tree)
        shutil.copyfile(tree / f"boot/vmlinuz-{release}", run.output / "vmlinuz")
        (run.output / "xen").write_bytes(_hypervisor(tree))
        modules = _modules(tree, release, run.logs / "chroot.log")
        (run.output / "initrd").write_bytes(_initrd(tree, modules))
        described = describe_tree(tree, run.logs / "chroot.log")
        (run.output / "versions.json").write_text(described)
        _trim(tree, release)
        _install(tree, self._unpack)
        _replace_firmware(tree, self._firmware.path)
        image = run.output / "dom0.img"
        with image.open("xb") as stream:
            stream.truncate(self._size)
        region = filesystem.Region(image, 0, self._size)
        name = str(uuid.uuid5(UUID_NAMESPACE, release))
        filesystem.make("ext4", tree, region, uuid=name, label="lab", log=run.logs / "mke2fs.log")


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
    chroot(tree, ["depmod", release], profile=LISTING, log=log, what="indexing the lab's modules")
    argv = ["modprobe", "--set-version", release, "--show-depends", "--all"]
    text = chroot(
        tree, [*argv, *BOOT_DRIVERS, *DRIVERS], profile=LISTING, log=log, what="listing modules"
    ).text
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


def _trim(tree: Path, release: str) -> None:
    for name in (*UNUSED, f"usr/lib/modules/{release}", f"lib/modules/{release}", "boot"):
        shutil.rmtree(tree / name, ignore_errors=True)


def _install(tree: Path, unpack: Path) -> None:
    """Put dom0's first process and its agent into the tree, and the library for xl."""
    home = tree / "usr/lib/imagekit"
    package = home / "imagekit/proof/dom0"
    package.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(INSIDE / "init.sh", home / "init")
    (home / "init").chmod(0o755)
    for source in sorted(INSIDE.glob("*.py")):
        shutil.copyfile(source, package / source.name)
    shutil.copyfile(unpack, home / LIBRARY)


def _replace_firmware(tree: Path, firmware: Path) -> None:
    target = tree / FIRMWARE
    if target.is_symlink() or not target.is_file():
        raise ImageError(f"the lab's packages brought no firmware at /{FIRMWARE}")
    target.write_bytes(firmware.read_bytes())
