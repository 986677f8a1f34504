"""Guests that do not boot, each for one reason, made from a build that does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from oracles.builds import Build
from oracles.manifests import artefact, write_manifest


def _config(
    build: Build, target: Path, name: str, image: Path | None = None, **settings: str
) -> Path:
    """The build's PVH config (direct kernel boot) as a PV one called ``name``, changed."""
    text = build.one("domain-config", mode="pvh").read_text()
    if image is not None:
        text = text.replace(str(build.disk("raw")), str(image))
    text = re.sub(r"^uuid = .*\n", "", text, flags=re.MULTILINE)
    for key, value in {"name": name, "type": "pv", "memory": "512", **settings}.items():
        quoted = value if value.isdigit() else f'"{value}"'
        text = re.sub(rf"^{key} = .*$", f"{key} = {quoted}", text, flags=re.MULTILINE)
    path = target / f"{name}.cfg"
    path.write_text(text)
    return path


def wrong_bridge(build: Build, target: Path) -> Path:
    """A bridge that dom0 does not have."""
    path = _config(build, target, "bridge")
    path.write_text(path.read_text().replace("bridge=xenbr0", "bridge=xenbr9"))
    return path


def kernel_without_pv(build: Build, target: Path) -> Path:
    """A PVH-only kernel, as PV: the real kernel with its entry note's type changed.

    The note: name size 4, description size 8, type 1 (XEN_ELFNOTE_ENTRY), name "Xen"
    (xen/include/public/elfnote.h).
    """
    from imagekit.kernel.image import load_kernel

    elf = load_kernel(build.one("kernel")).payload
    assert elf is not None
    note = b"\x04\0\0\0\x08\0\0\0\x01\0\0\0Xen\0"
    assert elf.count(note) == 1
    kernel = target / "kernel-without-pv"
    kernel.write_bytes(elf.replace(note, note.replace(b"\x01\0\0\0Xen", b"\x63\0\0\0Xen")))
    return _config(build, target, "nopv", kernel=str(kernel))


def unreadable_grub(build: Build, target: Path) -> Path:
    """A disk whose grub.cfg holds nothing that pygrub takes for an entry."""
    image = _disk_with_grub_cfg(target, "nogrub", "if true; then configfile (hd0,gpt7)/x; fi\n")
    path = target / "nogrub.cfg"
    path.write_text(
        'name = "nogrub"\ntype = "pv"\nmemory = 256\nbootloader = "pygrub"\n'
        f'disk = [ "{image},raw,xvda,rw" ]\n'
    )
    return path


def initrd_without_blkfront(build: Build, target: Path) -> Path:
    """The build's initrd with its disk driver for Xen taken out."""
    tree = target / "initrd-tree"
    tree.mkdir()
    packed = subprocess.run(["zstd", "-dc", build.one("initrd")], capture_output=True, check=True)
    unpack = ["cpio", "-id", "--quiet", "--no-absolute-filenames"]
    subprocess.run(unpack, input=packed.stdout, cwd=tree, check=True)
    (driver,) = tree.rglob("xen-blkfront.ko*")
    driver.unlink()
    names = "".join(f"{p.relative_to(tree)}\n" for p in sorted(tree.rglob("*")))
    make = ["cpio", "-o", "-H", "newc", "--quiet"]
    done = subprocess.run(make, input=names.encode(), cwd=tree, capture_output=True, check=True)
    initrd = target / "initrd-without-blkfront"
    initrd.write_bytes(done.stdout)
    return _config(build, target, "noblk", ramdisk=str(initrd))


def wrong_root(build: Build, target: Path) -> Path:
    """root= names a file system that is not there."""
    wrong = "root=UUID=00000000-1111-4222-8333-444444444444 ro console=hvc0"
    return _config(build, target, "wrongroot", cmdline=wrong)


def truncated_qcow2(build: Build, target: Path) -> Path:
    """The build's qcow2 without its second half, and a config for it."""
    image = target / "cut.qcow2"
    source = build.disk("qcow2")
    with source.open("rb") as stream:
        image.write_bytes(stream.read(source.stat().st_size // 2))
    path = target / "cut.cfg"
    path.write_text(
        'name = "cut"\ntype = "pv"\nmemory = 256\nbootloader = "pygrub"\n'
        f'disk = [ "format=qcow2, vdev=xvda, access=rw, target={image}" ]\n'
    )
    return path


def compressed_otherwise(build: Build, target: Path) -> Path:
    """A bzImage whose payload begins with no magic number that any libxenguest knows.

    To Xen 4.14 and older a zstd kernel looks just so: their libxenguest has no zstd, and says the
    same words. Fields: Linux Documentation/arch/x86/boot.rst, payload_offset at 0x248.
    """
    data = bytearray(build.one("kernel").read_bytes())
    start = (data[0x1F1] + 1) * 512 + int.from_bytes(data[0x248:0x24C], "little")
    data[start : start + 6] = b"nobody"
    kernel = target / "kernel-compressed-otherwise"
    kernel.write_bytes(data)
    return _config(build, target, "packed", kernel=str(kernel))


def zstd_kernel(build: Build, target: Path) -> Path:
    """The build's kernel packed with zstd, which Xen reads from 4.15 on; PV only.

    The payload ends with its unpacked size (Linux arch/x86/boot/compressed/Makefile, size_append);
    payload_length stands at 0x24C.
    """
    from imagekit.kernel.image import load_kernel

    data = build.one("kernel").read_bytes()
    elf = load_kernel(build.one("kernel")).payload
    assert elf is not None
    start = (data[0x1F1] + 1) * 512 + int.from_bytes(data[0x248:0x24C], "little")
    packed = subprocess.run(["zstd", "-q", "-c"], input=elf, capture_output=True, check=True).stdout
    packed += len(elf).to_bytes(4, "little")
    head = bytearray(data[:start])
    head[0x24C:0x250] = len(packed).to_bytes(4, "little")
    kernel = target / "kernel-zstd"
    kernel.write_bytes(head + packed)
    return _config(build, target, "zstd", kernel=str(kernel))


def empty_initrd(build: Build, target: Path) -> Path:
    """A cpio archive without a file, in place of the initrd (newc: Linux buffer-format.rst)."""
    initrd = target / "initrd-empty"
    make = ["cpio", "-o", "-H", "newc", "--quiet"]
    done = subprocess.run(make, input=b"", capture_output=True, check=True)
    initrd.write_bytes(done.stdout)
    return _config(build, target, "emptyinitrd", ramdisk=str(initrd))


def no_console(build: Build, target: Path) -> Path:
    """Neither the kernel nor a getty is told to use the guest's console."""
    config = build.one("domain-config", mode="pvh").read_text()
    (root,) = re.findall(r"root=\S+", config)
    quiet = f"{root} ro console=tty0 systemd.getty_auto=no"
    return _config(build, target, "noconsole", cmdline=quiet)


def grub_without_entry(build: Build, target: Path) -> Path:
    """GRUB itself as the kernel (pvgrub), and a grub.cfg with no entry on the disk."""
    image = _disk_with_grub_cfg(target, "noentry", "set timeout=1\n")
    path = target / "noentry.cfg"
    path.write_text(
        'name = "noentry"\ntype = "pv"\nmemory = 256\n'
        'kernel = "/usr/lib/grub-xen/grub-x86_64-xen.bin"\n'
        f'disk = [ "{image},raw,xvda,rw" ]\n'
    )
    return path


def full_disk(build: Build, target: Path) -> Path:
    """A root file system without a free block."""
    image = _copy(build, target, "full")
    listing = _debugfs(image, "show_super_stats -h")
    found = re.search(r"^Free blocks:\s+(\d+)", listing, re.MULTILINE)
    assert found
    empty = target / "empty"
    empty.touch()
    blocks = int(found[1]) - 40
    _debugfs(image, f"write {empty} /fill", f"fallocate /fill 0 {blocks}")
    filler = target / "filler"
    filler.write_bytes(b"x" * (4096 * 64))
    for number in range(8):
        _debugfs(image, f"write {filler} /fill{number}")
    return _config(build, target, "full", image=image)


def fstab_by_device_name(build: Build, target: Path) -> Path:
    """An fstab of another hypervisor: /dev/sda2 and not a UUID or xvda."""
    image = _copy(build, target, "fstab")
    fstab = target / "fstab"
    fstab.write_text("/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sda2 /srv ext4 defaults 0 2\n")
    _debugfs(image, "rm /etc/fstab", f"write {fstab} /etc/fstab")
    return _config(build, target, "fstab", image=image)


def hanging_unit(build: Build, target: Path) -> Path:
    """A unit that multi-user.target and the gettys wait for, and that never ends."""
    image = _copy(build, target, "hanging")
    unit = target / "forever.service"
    unit.write_text(
        "[Unit]\nDescription=Waits for a server that is not there\nDefaultDependencies=no\n"
        "Before=sysinit.target\n[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n"
    )
    _debugfs(
        image,
        f"write {unit} /etc/systemd/system/forever.service",
        "mkdir /etc/systemd/system/sysinit.target.wants",
        "symlink /etc/systemd/system/sysinit.target.wants/forever.service ../forever.service",
    )
    return _config(build, target, "hanging", image=image)


def _copy(build: Build, target: Path, name: str) -> Path:
    image = target / f"{name}.raw"
    source = build.disk("raw")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, image], check=True)
    return image


def _debugfs(image: Path, *requests: str) -> str:
    """What debugfs(8) says to ``requests`` for the root file system in ``image``."""
    table = subprocess.run(["sfdisk", "-J", image], capture_output=True, check=True)
    (root,) = [
        part
        for part in json.loads(table.stdout)["partitiontable"]["partitions"]
        if part["name"] == "root"
    ]
    argv = ["debugfs", "-w", "-f", "-", f"{image}?offset={root['start'] * 512}"]
    text = "".join(f"{request}\n" for request in requests)
    done = subprocess.run(argv, input=text, capture_output=True, check=True, text=True)
    return done.stdout


def _disk_with_grub_cfg(target: Path, name: str, text: str) -> Path:
    tree = target / f"tree-{name}"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(text)
    image = target / f"{name}.raw"
    subprocess.run(["truncate", "-s", "32M", image], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)
    return image


def together(configs: list[Path], target: Path) -> Path:
    """A build directory of these configs, so that one lab proves them one after another."""
    directory = target / "together"
    directory.mkdir()
    artefacts = []
    for config in configs:
        name = f"{config.stem}.xl.cfg"
        (directory / name).write_bytes(config.read_bytes())
        artefacts.append(artefact("domain-config", name, toolstack="xl"))
    write_manifest(directory, artefacts=artefacts)
    return directory
