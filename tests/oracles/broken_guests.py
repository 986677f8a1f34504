"""Guests that do not boot, each for one reason, made from a build that does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from oracles.builds import Build


def _config(build: Build, target: Path, name: str, **settings: str) -> Path:
    """The build's PVH config (direct kernel boot) as a PV one called ``name``, changed."""
    text = build.one("domain-config", mode="pvh").read_text()
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
    tree = target / "tree"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text("if true; then configfile (hd0,gpt7)/x; fi\n")
    image = target / "nogrub.raw"
    subprocess.run(["truncate", "-s", "32M", image], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)
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
