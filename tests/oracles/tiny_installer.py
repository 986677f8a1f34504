"""A small real installer, made from a Debian tree and host tools: on an ISO, or for netbooting."""

from __future__ import annotations

import fcntl
import gzip
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from oracles import isos
from oracles.builds import Build
from support.stored import stored

SCRIPT = Path(__file__).with_name("tiny_installer.sh")
PROGRAMS = ("sfdisk", "mke2fs", "grub-install", "grub-probe")
LEFT_OUT = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt"),
    *("usr/share/i18n", "var/lib/apt/lists", "usr/lib/udev/hwdb.bin", "usr/share/zoneinfo/right"),
)
HASH = (
    "$6$abcdefgh$" + "0123456789./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + "0" * 22
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl r's key"
# The installer is told not to make the initrd anew, which alone takes a minute without KVM.
SPEC = """name: tiny01
memory: 512
os: {{distribution: debian, suite: bookworm}}
install: {{method: iso, iso: "{iso}", args: tiny=quick, memory: 768, timeout: 1500, idle: 400}}
disk: {{size: 2GiB, swap: 64MiB, formats: [raw, qcow2, vhd]}}
boot: {{modes: [pv, pvh, hvm]}}
identity: {{ssh_keys: ["{key}"], root_password: {{file: hash}}}}
toolstacks: [xl, libvirt]
"""
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


@dataclass(frozen=True)
class Parts:
    """What the installer is made of, as files."""

    kernel: Path
    initrd: Path
    rootfs: Path


def debian_tree_of(demo: Build, cache: Path) -> Path:
    """The tar of the demo's own tree, as its build left it in the store."""
    (key,) = [s["key"] for s in demo.manifest["stages"] if s["name"] == "system"]
    return stored(cache, key, "tree.tar")


def parts(shared: Path, tree_tar: Path) -> Parts:
    """The installer's files, made once in ``shared`` by whichever process comes first.

    ``tree_tar`` is a Debian root with kernel and initrd in /boot.
    """
    base = shared / "tiny-installer"
    made = Parts(base / "linux", base / "initrd", base / "rootfs.tar")
    with (shared / "tiny-installer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            scratch = shared / "tiny-installer.part"
            scratch.mkdir()
            _make_parts(scratch, tree_tar)
            scratch.rename(base)
    return made


def _make_parts(scratch: Path, tree_tar: Path) -> None:
    root = scratch / "root"
    root.mkdir()
    left_out = [f"--exclude=./{name}/*" for name in LEFT_OUT]
    isos.run("tar", "-x", "-f", tree_tar, "-C", root, "--numeric-owner", *left_out)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    modules = root / "usr/lib/modules" / release
    (isofs,) = modules.rglob("isofs.ko")
    initrd = (root / f"boot/initrd.img-{release}").read_bytes()
    archive = tools_archive(scratch, isofs)
    shutil.rmtree(scratch / "tools")
    for path in modules.rglob("*.ko"):
        if not KEPT_DRIVERS.match(str(path.relative_to(modules))):
            path.unlink()
    merged = (root / "lib").is_symlink()
    isos.run("depmod", "-b", root if merged else root / "usr", release)
    shutil.copyfile(kernel, scratch / "linux")
    padded = initrd + bytes(-len(initrd) % 4)
    (scratch / "initrd").write_bytes(padded + gzip.compress(archive, 1))
    isos.run("tar", "-c", "-f", scratch / "rootfs.tar", "--numeric-owner", "-C", root, ".")
    shutil.rmtree(root)


def make_iso(scratch: Path, made: Parts) -> Path:
    """The installer's ISO."""
    tree = scratch / "iso"
    tree.mkdir()
    isos.debian_tree(tree, made.kernel.read_bytes(), made.initrd.read_bytes(), efi=False)
    shutil.rmtree(tree / "install.amd/gtk")
    (tree / "rootfs.tar").hardlink_to(made.rootfs)
    target = isos.with_xorriso(tree, scratch / "tiny.iso", hybrid=True, volume="TINY")
    shutil.rmtree(tree)
    return target


def guest_spec(shared: Path, made: Parts) -> Path:
    """The spec of a guest that the ISO installs: one for all, so that it is built once."""
    base = shared / "tiny-guest"
    with (shared / "tiny-installer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            scratch = shared / "tiny-guest.part"
            scratch.mkdir()
            make_iso(scratch, made)
            (scratch / "hash").write_text(HASH + "\n")
            spec = SPEC.format(iso=base / "tiny.iso", key=KEY)
            (scratch / "tiny01.yaml").write_text(spec)
            scratch.rename(base)
    return base / "tiny01.yaml"


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
