"""Which packages a guest needs so that its spec comes true."""

from __future__ import annotations

from imagekit.spec.install import Debootstrap, DiskimageBuilder
from imagekit.spec.model import Spec

KERNELS = {
    ("debian", "amd64"): "linux-image-amd64",
    ("debian", "i386"): "linux-image-686-pae",
    ("ubuntu", "amd64"): "linux-image-generic",
    ("ubuntu", "i386"): "linux-image-generic",
}
BASE = (
    *("systemd-sysv", "udev", "kmod", "dbus", "iproute2", "netbase", "initramfs-tools", "zstd"),
    *("procps", "e2fsprogs", "login", "passwd", "tzdata"),
)
# systemd-resolved is part of the systemd package in older releases.
RESOLVED_APART = {"bookworm", "trixie", "forky", "sid", "noble", "plucky", "mantic", "lunar"}
FILESYSTEM_TOOLS = {"xfs": "xfsprogs", "btrfs": "btrfs-progs"}


def tree_install(spec: Spec) -> Debootstrap:
    """What a spec says of its tree, for every method that makes one."""
    install = spec.install
    if isinstance(install, Debootstrap):
        return install
    packages = install.packages if isinstance(install, DiskimageBuilder) else []
    return Debootstrap(method="debootstrap", packages=packages)


def kernel_package(spec: Spec) -> str | None:
    """The kernel package to install; None when the spec names a kernel file."""
    named = tree_install(spec).kernel
    if named is None:
        return KERNELS[spec.os.distribution, spec.os.arch]
    return None if "/" in named else named


def base_packages(spec: Spec) -> list[str]:
    """What all guests of a suite and kernel have in common, sorted, each once."""
    names = {*BASE}
    kernel = kernel_package(spec)
    if kernel:
        names.add(kernel)
    if spec.os.suite in RESOLVED_APART:
        names.add("systemd-resolved")
    return sorted(names)


def wanted_packages(spec: Spec) -> list[str]:
    """All packages to install, sorted, each once."""
    names = {*base_packages(spec), *tree_install(spec).packages}
    disk = spec.disk
    for filesystem in (disk.filesystem, *(p.filesystem for p in disk.partitions)):
        if filesystem in FILESYSTEM_TOOLS:
            names.add(FILESYSTEM_TOOLS[filesystem])
    if disk.lvm:
        names.add("lvm2")
    if any(user.sudo for user in spec.identity.users):
        names.add("sudo")
    if needs_locales(spec):
        names.add("locales")
    return sorted(names)


def needs_locales(spec: Spec) -> bool:
    """Whether the locale has to be generated: C, POSIX and C.UTF-8 are part of libc."""
    return spec.identity.locale not in ("C", "POSIX", "C.UTF-8", "C.utf8")
