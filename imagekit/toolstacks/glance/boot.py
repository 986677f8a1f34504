"""Which domains nova's two Xen drivers can boot, and the kernel images they need for it.

Source: openstack/nova 20.0.0, ``nova/virt/xenapi/vmops.py``, ``vm_utils.py`` and
``nova/virt/libvirt/driver.py``; openstack/os-xenapi, plugin ``kernel.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError

MAX_KERNEL_BYTES = 16 * 1024 * 1024
"""``[xenserver] max_kernel_ramdisk_size``, its default; kernel and initrd each."""


def check_mode(domain: Domain, facts: BuildFacts, *, xenapi: bool, ami: bool) -> None:
    """Raise CapabilityError or SpecError unless nova can boot ``domain`` from its images."""
    boot = domain.boot
    if domain.mode == "pvh":
        raise CapabilityError(
            "nova's Xen drivers know PV (xen) and HVM, not PVH",
            where="mode",
            hint="--mode pv or --mode hvm",
        )
    if isinstance(boot, model.Netboot) or (isinstance(boot, model.Pygrub) and boot.args):
        refuse(
            "nova runs pygrub, without arguments, and no other bootloader",
            "boot",
            "boot through pygrub or firmware",
        )
    if domain.mode == "hvm":
        _check_hvm(boot)
    if ami and not isinstance(boot, model.DirectKernel):
        refuse(
            "an AMI boots by a kernel of its own",
            "boot",
            "--boot direct, or leave out the AMI form",
        )
    if ami and facts.partition_table != "none":
        raise CapabilityError(
            f"an AMI is a bare file system, and the image has a partition table "
            f"({facts.partition_table})",
            where="disks[0]",
            hint="build it without one, or leave out the AMI form",
        )
    if xenapi and isinstance(boot, model.DirectKernel):
        _check_xenapi_kernel(facts, boot, ami=ami)


def _check_hvm(boot: model.Boot) -> None:
    if isinstance(boot, model.DirectKernel):
        refuse("nova boots HVM through firmware", "boot", "install GRUB, or --mode pv")
    if isinstance(boot, model.Firmware) and boot.kind == "uefi":
        raise CapabilityError(
            "nova's Xen drivers boot HVM through BIOS only",
            where="boot.kind",
            hint="install GRUB for BIOS into the image",
        )
    if isinstance(boot, model.Firmware) and "c" not in boot.boot_order:
        refuse("nova boots from the disk", "boot.boot_order", "put c into it")


def _check_xenapi_kernel(facts: BuildFacts, boot: model.DirectKernel, *, ami: bool) -> None:
    if not ami:
        raise CapabilityError(
            "for XenServer nova boots a kernel with root=/dev/xvda1, whatever the image says",
            where="boot",
            hint="boot through pygrub, or make an AMI of a bare file system",
        )
    for role, size, hint in (
        ("kernel", facts.kernel_bytes, "a smaller kernel"),
        ("initrd", facts.initrd_bytes if boot.initrd else 0, "an initrd made with MODULES=dep"),
    ):
        if size is None:
            refuse(f"the size of the {role} is not known", f"boot.{role}", "build the image again")
        if size > MAX_KERNEL_BYTES:
            raise CapabilityError(
                f"the {role} has {size / 2**20:.1f} MiB, and nova loads 16 MiB for XenServer",
                where=f"boot.{role}",
                hint=f"{hint}, pygrub, or raise [xenserver] max_kernel_ramdisk_size",
            )


def boot_files(domain: Domain) -> Iterator[tuple[str, str, str, str]]:
    """What else to upload: (role, format, path, field); the format is aki or ari."""
    boot = domain.boot
    if isinstance(boot, model.Pvgrub):
        yield "kernel", "aki", boot.image_path, "boot.image_path"
    elif isinstance(boot, model.DirectKernel):
        yield "kernel", "aki", boot.kernel, "boot.kernel"
        if boot.initrd is not None:
            yield "initrd", "ari", boot.initrd, "boot.initrd"
