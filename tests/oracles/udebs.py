"""Packages of Debian's installer (udebs) that a mirror lacks, made of the .debs that it has.

A mirror often keeps no udebs of the installer's newest kernel, and not those of every library.
What they hold is in ordinary packages: which modules, the same udeb of another kernel says, and
which programs and libraries, FROM_DEBS.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oracles.debian_mirror import DebianMirror, Paragraph

# What an installation on a virtual disk can ask for; the network's drivers are in the initrd.
KERNEL_UDEBS = (
    *("ata", "btrfs", "cdrom-core", "crypto-dm", "crypto", "ext4", "fat", "isofs", "loop", "md"),
    *("pata", "sata", "scsi-core", "scsi", "udf", "xfs"),
)


@dataclass(frozen=True)
class Source:
    """Of which packages a udeb is made, and which of their files it has (regular expression)."""

    packages: tuple[str, ...]
    files: str


# e2fsprogs' own debian/rules: the udeb has mke2fs, e2fsck, badblocks and the libraries they need.
FROM_DEBS = {
    "e2fsprogs-udeb": Source(
        ("e2fsprogs", "libext2fs2t64", "libcom-err2", "libss2"),
        r"usr/sbin/(badblocks|debugfs|e2fsck|fsck\.ext\d|mke2fs|mkfs\.ext\d|resize2fs|tune2fs|dumpe2fs)"
        r"|etc/mke2fs\.conf|usr/lib/x86_64-linux-gnu/lib[a-z0-9_-]+\.so\.[\d.]+",
    ),
    "libfdisk1-udeb": Source(("libfdisk1",), r"usr/lib/x86_64-linux-gnu/libfdisk\.so\.[\d.]+"),
    "libmount1-udeb": Source(("libmount1",), r"usr/lib/x86_64-linux-gnu/libmount\.so\.[\d.]+"),
    "libsmartcols1-udeb": Source(
        ("libsmartcols1",), r"usr/lib/x86_64-linux-gnu/libsmartcols\.so\.[\d.]+"
    ),
    "xfsprogs-udeb": Source(("xfsprogs",), r"usr/sbin/(mkfs\.xfs|xfs_repair|fsck\.xfs)"),
}


def of_debs(mirror: DebianMirror, out: Path, scratch: Path) -> Iterator[Path]:
    """The udebs of FROM_DEBS that the mirror lacks, written into ``out``."""
    for name, source in FROM_DEBS.items():
        wanted = mirror.udeb(name)
        if mirror.has(wanted):
            continue
        tree = scratch / name
        for package in source.packages:
            _unpack(mirror.fetch(mirror.deb(package)), scratch / "deb", tree, source.files)
        yield _build(tree, _control(wanted, wanted["Version"]), out)


def of_kernel(mirror: DebianMirror, release: str, out: Path, scratch: Path) -> Iterator[Path]:
    """The udebs with the modules of kernel ``release``, written into ``out``.

    Raises LookupError when the mirror has neither them nor those of a kernel like it.
    """
    image = mirror.deb(f"linux-image-{release}")
    modules = scratch / "kernel"
    _whole(mirror.fetch(image), modules)
    for name in KERNEL_UDEBS:
        like = _like(mirror, f"{name}-modules")
        other = like["Kernel-Version"]
        if other == release:
            continue
        tree = scratch / name
        listed = subprocess.run(
            ["dpkg-deb", "--contents", mirror.fetch(like)],
            capture_output=True,
            text=True,
            check=True,
        )
        for path in re.findall(r"\./(?:usr/)?lib/modules/[^/]+/(\S+\.ko\S*)", listed.stdout):
            (found,) = modules.glob(f"usr/lib/modules/{release}/{path}")
            target = tree / "usr/lib/modules" / release / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, target)
        control = _control(like, image["Version"])
        yield _build(tree, {k: v.replace(other, release) for k, v in control.items()}, out)
    shutil.rmtree(modules)


def _like(mirror: DebianMirror, name: str) -> Paragraph:
    """A udeb of ``name`` for any kernel that the mirror can give."""
    for paragraph in mirror.udebs():
        kernel = paragraph.get("Kernel-Version", "")
        if paragraph["Package"] == f"{name}-{kernel}-di" and mirror.has(paragraph):
            return paragraph
    raise LookupError(f"the mirror has no {name} of any kernel")


def _control(udeb: Paragraph, version: str) -> Paragraph:
    kept = ("Package", "Architecture", "Maintainer", "Depends", "Provides", "Kernel-Version")
    fields = {name: udeb[name] for name in kept if name in udeb}
    fields |= {"Version": version, "Section": "debian-installer"}
    return fields | {name: udeb[name] for name in ("Priority", "Description") if name in udeb}


def _whole(package: Path, tree: Path) -> None:
    tree.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)


def _unpack(package: Path, scratch: Path, tree: Path, files: str) -> None:
    """Copy what matches ``files`` into ``tree``; links to it stay links."""
    _whole(package, scratch)
    for path in sorted(scratch.rglob("*")):
        name = str(path.relative_to(scratch))
        if not path.is_dir() and re.fullmatch(files, name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, tree / name, follow_symlinks=False)
    shutil.rmtree(scratch)


def _build(tree: Path, control: Paragraph, out: Path) -> Path:
    (tree / "DEBIAN").mkdir()
    text = "".join(f"{name}: {value}\n" for name, value in control.items())
    (tree / "DEBIAN/control").write_text(text)
    target = out / f"{control['Package']}_{control['Version'].replace(':', '%3a')}_amd64.udeb"
    argv = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", str(tree), str(target)]
    subprocess.run(argv, check=True, capture_output=True)
    shutil.rmtree(tree)
    return target
