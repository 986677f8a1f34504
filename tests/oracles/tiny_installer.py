"""A small real installer on an ISO shaped as Debian's, made from a Debian tree and host tools."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from oracles import isos

SCRIPT = Path(__file__).with_name("tiny_installer.sh")
PROGRAMS = ("sfdisk", "mke2fs", "grub-install", "grub-probe")
LEFT_OUT = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt"),
    *("usr/share/i18n", "var/lib/apt/lists", "usr/lib/udev/hwdb.bin", "usr/share/zoneinfo/right"),
)
KEPT_DRIVERS = re.compile(
    r"kernel/(fs/(ext4|jbd2|isofs|mbcache)|lib|crypto|arch|drivers/(block|virtio|ata|scsi|cdrom|xen|"
    r"net/(virtio_net|xen|net_failover))|net/core|drivers/char/hw_random)"
)


def programs(target: Path) -> None:
    """Copy host programs with the libraries they are linked to."""
    shutil.copyfile("/bin/busybox", target / "usr/bin/busybox")
    (target / "usr/bin/busybox").chmod(0o755)
    for name in PROGRAMS:
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found is not None
        shutil.copy2(Path(found).resolve(), target / "usr/sbin" / name)
        for library in re.findall(r"(/\S+\.so[.\d]*)", isos.run("ldd", found)):
            place = target / "usr" / Path(library).relative_to("/").as_posix().removeprefix("usr/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(library).resolve(), place)
            place.chmod(0o755)


def pack(directory: Path) -> bytes:
    """A newc archive of a directory."""
    names = "\n".join(str(p.relative_to(directory)) for p in sorted(directory.rglob("*"))).encode()
    done = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
        input=names,
        cwd=directory,
        capture_output=True,
        check=True,
    )
    return done.stdout


def tools_archive(scratch: Path, isofs: Path | None = None) -> bytes:
    """What is laid over a distribution's initrd to make it the installer's."""
    tree = scratch / "tools"
    for name in ("usr/bin", "usr/sbin", "extra", "usr/lib/grub"):
        (tree / name).mkdir(parents=True)
    programs(tree)
    shutil.copytree("/usr/lib/grub/i386-pc", tree / "usr/lib/grub/i386-pc")
    if isofs is not None:
        shutil.copyfile(isofs, tree / "extra/isofs.ko")
    shutil.copyfile(SCRIPT, tree / "init")
    (tree / "init").chmod(0o755)
    return pack(tree)


def make(scratch: Path, tree_tar: Path) -> Path:
    """The ISO; ``tree_tar`` is a Debian root with kernel and initrd in /boot."""
    root = scratch / "root"
    root.mkdir()
    isos.run(
        "tar",
        "-x",
        "-f",
        tree_tar,
        "-C",
        root,
        "--numeric-owner",
        *[f"--exclude=./{name}/*" for name in LEFT_OUT],
    )
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    modules = root / "usr/lib/modules" / release
    (isofs,) = modules.rglob("isofs.ko")
    initrd = (root / f"boot/initrd.img-{release}").read_bytes()
    archive = tools_archive(scratch, isofs)
    for path in modules.rglob("*.ko"):
        if not KEPT_DRIVERS.match(str(path.relative_to(modules))):
            path.unlink()
    isos.run("depmod", "-b", root / "usr", release) if not (
        root / "lib"
    ).is_symlink() else isos.run("depmod", "-b", root, release)
    tree = scratch / "iso"
    tree.mkdir()
    padded = initrd + bytes(-len(initrd) % 4)
    isos.debian_tree(tree, kernel.read_bytes(), padded + gzip.compress(archive, 1), efi=False)
    shutil.rmtree(tree / "install.amd/gtk")
    isos.run("tar", "-c", "-f", tree / "rootfs.tar", "--numeric-owner", "-C", root, ".")
    shutil.rmtree(root)
    target = isos.with_xorriso(tree, scratch / "tiny.iso", hybrid=True, volume="TINY")
    shutil.rmtree(tree)
    return target


def make_stub(scratch: Path, kernel: Path, initrd: Path) -> Path:
    """The installer without a system to install: for what goes wrong before that."""
    tree = scratch / "iso"
    tree.mkdir(parents=True)
    data = initrd.read_bytes()
    padded = data + bytes(-len(data) % 4)
    archive = gzip.compress(tools_archive(scratch), 1)
    isos.debian_tree(tree, kernel.read_bytes(), padded + archive, efi=False)
    shutil.rmtree(tree / "install.amd/gtk")
    return isos.with_xorriso(tree, scratch / "stub.iso", hybrid=False, volume="STUB")
