"""External tools imagekit calls, and the Debian package that brings each one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from imagekit.errors import HostError

PACKAGES: dict[str, str] = {
    "mmdebstrap": "mmdebstrap",
    "debootstrap": "debootstrap",
    "arch-test": "arch-test",
    "gpgv": "gpgv",
    "gpg": "gnupg",
    "age": "age",
    "minisign": "minisign",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "faketime": "faketime",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mdir": "mtools",
    "mkswap": "util-linux",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "losetup": "mount",
    "partx": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.ext3": "e2fsprogs",
    "mkfs.ext2": "e2fsprogs",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
    "grub-mkimage": "grub-common",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "lvcreate": "lvm2",
    "lvremove": "lvm2",
    "lvs": "lvm2",
    "vgs": "lvm2",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "xl": "xen-utils-4.17",
    "pygrub": "xen-utils-4.17",
    "vhdiinfo": "libvhdi-utils",
    "tar": "tar",
    "newuidmap": "uidmap",
    "slirp4netns": "slirp4netns",
    "zstd": "zstd",
    "lzop": "lzop",
    "cpio": "cpio",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "tc": "iproute2",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "xorriso": "xorriso",
    "debconf-set-selections": "debconf",
    "openssl": "openssl",
    "ssh-keygen": "openssh-client",
    "gcc": "gcc",
}

EXTRA_PATH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""Administration tools live in sbin, which an ordinary user's PATH lacks on Debian."""


def search_path() -> str:
    """The PATH that tools are looked up in: the caller's, then the system's sbin and bin."""
    parts = [p for p in os.environ.get("PATH", "").split(":") if p.startswith("/")]
    return ":".join(dict.fromkeys([*parts, *EXTRA_PATH]))


def find(tool: str) -> Path | None:
    """Absolute path of ``tool`` (a name or an absolute path), or None."""
    found = shutil.which(tool, path=search_path())
    return Path(found) if found else None


def require(tool: str) -> Path:
    """Absolute path of ``tool``; raises HostError naming the package to install."""
    found = find(tool)
    if found is None:
        package = PACKAGES.get(Path(tool).name)
        raise HostError(
            f"the program {tool} is not on this host",
            hint=f"apt-get install {package}"
            if package
            else "imagekit doctor lists what is needed",
        )
    return found
