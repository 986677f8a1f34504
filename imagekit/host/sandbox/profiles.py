"""What each purpose may do in its sandbox; everything else is the same for all."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30
# linux/capability.h. Each is needed by root who installs packages, and none leads out of a user
# namespace that owns nothing but its ids.
KEPT = {
    "chown": 0,  # the owners of a package's files
    "dac_override": 1,  # files of other users of the tree
    "fowner": 3,  # chmod of them
    "fsetid": 4,  # setuid bits of packages stay when files change
    "kill": 5,  # daemons that scripts start and end
    "setgid": 6,  # apt, man-db, su: give up root
    "setuid": 7,
    "setpcap": 8,  # setpriv, systemd tools: give up capabilities
    "net_bind_service": 10,  # daemons that scripts start
    "sys_chroot": 18,  # dpkg --root, apt's methods
    "audit_write": 29,  # su and PAM say who became whom
    "setfcap": 31,  # file capabilities of packages, such as ping's
}
MOUNTING = {
    "dac_read_search": 2,  # tar and rsync by file handles
    "sys_admin": 21,  # mounts, in the mount namespace of its own
}
"""What making a root file system needs beside, over namespaces of its own."""
MKNOD = {"mknod": 27}


@dataclass(frozen=True)
class Profile:
    """The rights and bounds of one purpose.

    ``name`` is said in errors. ``mounting``: its mounts are its own to make. ``user_namespace``:
    false only where the kernel forbids what has to be done. ``sysfs`` shows a read-only /sys.
    ``memory`` (bytes of all processes, without the page cache), ``processes`` (all threads),
    ``cpu_seconds`` and ``file_size`` (bytes; each process) and ``disk`` (bytes written to a tree in
    memory, beside ``memory``) are bounds.
    """

    name: str
    mounting: bool = False
    user_namespace: bool = True
    sysfs: bool = True
    memory: int = GIB - 32 * MIB  # xz -9 of an initrd takes 674 MiB
    processes: int = 1024
    cpu_seconds: int = 3600
    file_size: int = 16 * GIB
    disk: int = 8 * GIB

    @property
    def kept(self) -> list[int]:
        """The capabilities that stay, as numbers."""
        more = {**(MOUNTING if self.mounting else {}), **({} if self.user_namespace else MKNOD)}
        return sorted({*KEPT.values(), *more.values()})


PACKAGES = Profile("packages")
"""Maintainer scripts, and programs of packages that settings need."""
SCRIPT = Profile("scripts")
"""What a spec's ``scripts`` names."""
INITRD = Profile("initrd")
"""mkinitramfs with the hooks of packages; it looks at /sys for what they drive."""
ELEMENT = Profile("element")
"""A phase of elements, in the tree or beside it."""
ROOT_ELEMENT = Profile("root element", mounting=True, memory=2 * GIB)
"""Elements that make a root file system: debootstrap, yum and their like mount /proc and more; dnf
with its metadata takes more than 1 GiB."""
LISTING = Profile("listing", sysfs=False, cpu_seconds=600)
"""dpkg-query, depmod, modprobe: read files and print."""
COMPILING = Profile("compiling", sysfs=False, memory=4 * GIB, cpu_seconds=7200)
"""The lab's own programs: a C compiler for each core."""
BLOCK_DEVICE = Profile("block device", mounting=True, user_namespace=False, memory=4 * GIB)
"""diskimage-builder's block device layer: loop devices and mounts of file systems, which the kernel
lets no user namespace have. It runs programs of the host on a checked layout and copies the tree;
nothing of the tree is run."""
