"""The facts of a build, from its spec, its kernel and its disk, before and after it is made."""

from __future__ import annotations

from typing import Any

from imagekit.disk.bootloader import grub_prefix
from imagekit.disk.layout import Assembled, Ids, plan_layout
from imagekit.domain.bootpath import raw_settings
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Cpu, Nic, Rate, Vnc, parse_pins
from imagekit.kernel.report import Bootable, Capability
from imagekit.spec.derived import effective_disk, mac_of, uuid_of
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec, StaticNetwork

ABLE_KERNEL = Bootable(Capability(True), Capability(True), Capability(True), "0")
"""A kernel that can do everything, for trying the words before there is a kernel."""


def trial_image(spec: Spec) -> Assembled:
    """A disk as the spec wants it, for trying the words before there is one."""
    layout = plan_layout(effective_disk(spec.disk), Ids("trial"))
    cmdline = f"root=UUID={layout.parts[-1].fs_uuid} ro {spec.boot.cmdline}"
    return Assembled(layout, cmdline.strip())


def disk_path(spec: Spec, image_format: str) -> str:
    """Name of the disk in the build directory."""
    return f"{spec.name}.{image_format}"


def facts_for(spec: Spec, kernel: Bootable, image: Assembled) -> BuildFacts:
    """The facts of a build: what the spec wants, what the kernel can, how the disk is laid out."""
    layout = image.layout
    grub = f"{grub_prefix(layout)}/grub.cfg"
    table = layout.table
    return BuildFacts(
        name=spec.name,
        uuid=uuid_of(spec),
        memory_mib=spec.memory,
        maxmem_mib=spec.maxmem,
        vcpus=spec.vcpus,
        disks=(
            DiskFacts(
                {f: disk_path(spec, f) for f in spec.disk.formats},
                effective_disk(spec.disk).size,
            ),
        ),
        pv=_verdict(kernel.pv),
        pvh=_verdict(kernel.pvh),
        hvm=_verdict(kernel.hvm),
        # /boot is an ext4 of ours without the features that pygrub's reader lacks, and grub.cfg
        # has the one form it understands.
        pygrub=PygrubView(True, f"pygrub reads {grub} on ext4"),
        arch="x86_64" if spec.os.arch == "amd64" else "i386",
        modes=tuple(spec.boot.modes),
        nics=tuple(_nic(spec, index) for index in range(len(spec.nics))),
        kernel=f"{spec.name}-vmlinuz",
        initrd=f"{spec.name}-initrd.img",
        kernel_release=kernel.release,
        cmdline=image.cmdline,
        partition_table=table,
        boot_filesystem=layout.boot_part.filesystem,
        grub_config=grub,
        bootloader_bios=table != "none",
        bootloader_uefi=layout.find("esp") is not None,
        graphics=_screen(spec),
        graphics_password=spec.machine.graphics is not None and spec.machine.graphics.password,
        cpu=_cpu(spec),
        maxvcpus=spec.machine.maxvcpus,
        on_poweroff=spec.machine.on_poweroff,
        on_reboot=spec.machine.on_reboot,
        on_crash=spec.machine.on_crash,
        raw={
            toolstack: dict(raw_settings(settings))
            for toolstack, settings in spec.machine.raw.items()
        },
        os_distribution=spec.os.distribution,
        os_version=spec.os.suite,
    )


def _cpu(spec: Spec) -> Cpu:
    wanted = spec.machine.cpu
    # To Xen a cap of 0 is none, which a domain says by having none.
    return Cpu(wanted.weight, wanted.cap or None, parse_pins(wanted.pins))


def _verdict(found: Capability) -> Verdict:
    return Verdict(found.capable, found.evidence)


def _screen(spec: Spec) -> Vnc | None:
    wanted = spec.machine.graphics
    if wanted is None:
        return None
    return Vnc(wanted.listen, wanted.display, None, wanted.keymap)


def _nic(spec: Spec, index: int) -> Nic:
    nic = spec.nics[index]
    ips: tuple[str, ...] = (nic.ip,) if nic.ip else ()
    if not ips and isinstance(nic.network, StaticNetwork) and nic.script:
        ips = tuple(a.split("/")[0] for a in nic.network.addresses)
    return Nic(
        mac=mac_of(spec, index),
        bridge=nic.bridge,
        ips=ips,
        model=nic.model,
        script=nic.script,
        rate=Rate.parse(nic.rate) if nic.rate else None,
        type=nic.type,
        gatewaydev=nic.gatewaydev,
    )


def origins(file: SpecFile) -> dict[str, str]:
    """Where the spec says what: a field of the facts to "web01.yaml:3 memory"; no defaults."""
    fields: dict[str, tuple[str | int, ...]] = {
        "name": ("name",),
        "uuid": ("uuid",),
        "memory_mib": ("memory",),
        "maxmem_mib": ("maxmem",),
        "vcpus": ("vcpus",),
        "modes": ("boot", "modes"),
        "cmdline": ("boot", "cmdline"),
        "nics": ("nics",),
        "disks": ("disk",),
    }
    found = {}
    for name, loc in fields.items():
        node: Any = file.tree
        for part in loc:
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            place, _, field = file.where(*loc).partition(" ")
            if place == "--set":
                found[name] = f"{place} {field}"
                continue
            line = place.rsplit(":", 2)[-2]
            found[name] = f"{file.path.name}:{line} {field}"
    return found
