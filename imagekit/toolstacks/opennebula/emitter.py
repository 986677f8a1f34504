"""OpenNebula 4.4 to 5.4, its Xen drivers: templates for images and the VM.

What the VM template has no attribute for goes through ``RAW``, whose data the driver appends to the
config of xl (driver xen4) or xm (xen3). OpenNebula names the domain ``one-ID`` and gives it a UUID
of its own, so that a template can be started many times.

Sources: ``src/vmm/XenDriver.cc``, ``src/image/ImageTemplate.cc`` of OpenNebula 4.4 and 4.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain, Nic
from imagekit.domain.text import one_line, refuse
from imagekit.domain.vdev import parse_vdev
from imagekit.toolstacks.opennebula.deploy import CREDIT, deployment
from imagekit.toolstacks.opennebula.images import Image, image_name, images
from imagekit.toolstacks.opennebula.quote import Attribute, Pair, bare
from imagekit.toolstacks.opennebula.raw import raw_data
from imagekit.toolstacks.output import Line, OutputFile, joined, permissions

BOOT_WORDS = {"c": "hd", "a": "fd", "d": "cdrom", "n": "network"}

DRIVERS = {
    "xen4": {"raw": "raw:", "qcow2": "qcow2:", "vhd": "vhd:"},
    "xen3": {
        "raw": "tap2:tapdisk:aio:",
        "qcow2": "tap2:tapdisk:qcow2:",
        "vhd": "tap2:tapdisk:vhd:",
    },
}
"""The prefix of a disk by driver and format; xl takes all of them."""


@dataclass(frozen=True)
class Options:
    """What OpenNebula needs to know beyond the domain.

    ``driver`` is xen4 (xl) or xen3 (xm). ``release`` tells how CD-ROMs are attached. ``network``
    names a virtual network for all NICs (None: the NICs name their bridges); with ``mac`` it is
    asked for the guest's own MAC addresses, which have to be in its range. ``datastore`` and
    ``files_datastore`` hold the images, and kernel and initrd. ``context`` is the device of the
    context disk, "auto" for the first that fits, None for no context.
    """

    driver: Literal["xen3", "xen4"] = "xen4"
    release: Literal["4.4", "4.14"] = "4.4"
    network: str | None = None
    mac: bool = False
    datastore: str = "default"
    files_datastore: str = "files"
    context: str | None = None


def vm_attributes(domain: Domain, options: Options) -> list[Attribute]:
    """The VM template; raises SpecError for what OpenNebula cannot express."""
    _check(domain, options)
    found = [
        Attribute("NAME", domain.name, "name"),
        Attribute("CPU", cpu_units(domain), "cpu.weight"),
        Attribute("VCPU", str(domain.vcpus), "vcpus"),
        Attribute("MEMORY", str(domain.memory_mib), "memory_mib"),
        Attribute("OS", tuple(_os(domain)), "boot"),
    ]
    for i, disk in enumerate(domain.disks):
        found.append(Attribute("DISK", tuple(_disk(domain, disk, options)), f"disks[{i}]"))
    for i, nic in enumerate(domain.nics):
        pairs = _nic(nic, domain, options, f"nics[{i}]")
        found.append(Attribute("NIC", tuple(pairs), f"nics[{i}]"))
    if domain.graphics is not None and domain.mode != "hvm":
        found.append(Attribute("GRAPHICS", tuple(_graphics(domain.graphics)), "graphics"))
    if options.context is not None:
        found.append(Attribute("CONTEXT", tuple(_context(domain, options)), "context"))
    for field, data in raw_data(domain, options.driver):
        found.append(Attribute("RAW", (("TYPE", "xen"), ("DATA", data)), field))
    return found


def cpu_units(domain: Domain) -> str:
    """OpenNebula's CPU: the credit scheduler's weight in units of 256, the usual weight as 1."""
    text = f"{(domain.cpu.weight or CREDIT) / CREDIT:.8f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _check(domain: Domain, options: Options) -> None:
    modern = domain.mode == "pvh" or (
        domain.mode == "hvm"
        and not (isinstance(domain.boot, model.Firmware) and domain.boot.kind == "bios")
    )
    if options.driver == "xen3" and modern:
        refuse(
            "xm, behind the driver xen3, has neither PVH, UEFI nor direct kernels on HVM",
            "mode",
            "take the driver xen4, or the mode pv",
        )
    for i, disk in enumerate(domain.disks):
        where = f"disks[{i}]"
        if disk.target is None:
            refuse("OpenNebula attaches no empty CD-ROM drive", where, "leave the drive out")
        if disk.cdrom and options.release == "4.4":
            refuse(
                "OpenNebula before 4.14 attaches a CD-ROM as a plain disk",
                where,
                "use OpenNebula 4.14 or later",
            )


def _os(domain: Domain) -> list[Pair]:
    boot = domain.boot
    pairs = [("ARCH", "x86_64" if domain.arch == "x86_64" else "i686")]
    if isinstance(boot, model.Firmware):
        words = [BOOT_WORDS[letter] for letter in boot.boot_order]
        return [*pairs, ("BOOT", ",".join(words))]
    if isinstance(boot, model.Pvgrub):
        return [*pairs, ("KERNEL", bare(boot.image_path, "boot.image_path"))]
    if isinstance(boot, model.DirectKernel):
        pairs.append(("KERNEL_DS", _file_image(image_name(domain, "kernel"))))
        if boot.initrd is not None:
            pairs.append(("INITRD_DS", _file_image(image_name(domain, "initrd"))))
        if boot.cmdline:
            # ROOT is written as /dev/ROOT, which leaves no way to say root=UUID=...
            pairs.append(("KERNEL_CMD", bare(boot.cmdline, "boot.cmdline")))
        return pairs
    program = "pygrub" if isinstance(boot, model.Pygrub) else boot.program
    return [*pairs, ("BOOTLOADER", bare(program, "boot.program"))]


def _file_image(name: str) -> str:
    return f'$FILE[IMAGE="{name}"]'


def disk_driver(disk: Disk, options: Options) -> str:
    """The DRIVER of a disk, with its colon. The back-end phy is the only one with a word."""
    return "phy:" if disk.backend == "phy" else DRIVERS[options.driver][disk.format]


def _disk(domain: Domain, disk: Disk, options: Options) -> list[Pair]:
    pairs = [
        ("IMAGE", image_name(domain, disk.vdev)),
        ("DRIVER", disk_driver(disk, options)),
        ("TARGET", disk.vdev),
    ]
    return [*pairs, ("READONLY", "YES")] if disk.readonly else pairs


def _nic(nic: Nic, domain: Domain, options: Options, where: str) -> list[Pair]:
    for field in ("rate", "gatewaydev", "name"):
        if getattr(nic, field) is not None:
            refuse(
                "OpenNebula's Xen drivers have no word for it",
                f"{where}.{field}",
                "leave it out, or use xl",
            )
    if nic.script not in (None, "vif-bridge"):
        refuse(
            f"OpenNebula attaches NICs to bridges, not by {nic.script}",
            f"{where}.script",
            "leave it out; OpenNebula's own network drivers do VLANs and Open vSwitch",
        )
    if len(nic.ips) > 1:
        refuse("OpenNebula gives a NIC one ip", f"{where}.ips", "keep one of them")
    if domain.mode == "hvm" and nic.type == "vif":
        # MODEL becomes model=, never type=, and xl hands a model to QEMU as an emulated card.
        refuse(
            "OpenNebula cannot ask for a PV NIC without its emulated twin",
            f"{where}.type",
            "leave it out: the guest uses the PV one anyway",
        )
    pairs = [] if options.network is None else [("NETWORK", options.network)]
    if nic.model is not None:
        pairs.append(("MODEL", nic.model))
    if options.network is None or options.mac:
        # Without it the network gives one. 4.14 refuses a MAC out of the network's range, and 4.4
        # gives another without a word (AddressRangePool.cc, RangedLeases.cc).
        pairs.append(("MAC", nic.mac))
    pairs += [("IP", ip) for ip in nic.ips]
    if options.network is None:
        pairs.append(("BRIDGE", nic.bridge or ""))
    return pairs


def _graphics(vnc: model.Vnc) -> list[Pair]:
    pairs = [("TYPE", "vnc"), ("LISTEN", vnc.listen)]
    if vnc.display is not None:
        pairs.append(("PORT", str(5900 + vnc.display)))
    if vnc.password is not None:
        pairs.append(("PASSWD", bare(vnc.password, "graphics.password")))
    if vnc.keymap is not None:
        pairs.append(("KEYMAP", vnc.keymap))
    return pairs


def _context(domain: Domain, options: Options) -> list[Pair]:
    return [
        ("NETWORK", "YES"),
        ("HOSTNAME", domain.name),
        ("DRIVER", "raw:" if options.driver == "xen4" else "file:"),
        ("TARGET", context_target(domain, options.context or "auto")),
    ]


def context_target(domain: Domain, wanted: str = "auto") -> str:
    """The device of the context disk; raises SpecError where the guest could not see it.

    The driver attaches it as a read-only disk, never as a CD-ROM, and QEMU has no read-only IDE
    disk: on HVM the four IDE positions are closed to it, taken or not.
    """
    taken = {parse_vdev(disk.vdev).index for disk in domain.disks}
    first = 4 if domain.mode == "hvm" else 0
    if wanted == "auto":
        index = next(i for i in range(first, 26) if i not in taken)
        return "xvd" + "abcdefghijklmnopqrstuvwxyz"[index]
    one_line(wanted, "context")
    vdev = parse_vdev(wanted, "context")
    if vdev.index in taken:
        refuse(f"{wanted} is a disk of the domain already", "context", "take another letter")
    if domain.mode == "hvm" and vdev.bus != "sd" and vdev.index < first:
        refuse(
            f"{wanted} is one of the four IDE disks of HVM, which cannot be read-only",
            "context",
            "use SCSI (sdb) or xvde and later",
        )
    return wanted


class OpenNebulaEmitter:
    """The ``opennebula`` toolstack."""

    name = "opennebula"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return [Line(str(a), a.field) for a in vm_attributes(domain, self.options)]

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return joined(self.lines(domain, facts))

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """The VM template, a template per image, and what the driver will hand to Xen.

        ``NAME.MODE.one.vm``, ``NAME.MODE.one.DEVICE.image``, ``NAME.MODE.one.deployment``.
        """
        stem = f"{domain.name}.{domain.mode}.one"
        found = {f"{stem}.vm": OutputFile(self._commented(domain, facts), permissions(domain))}
        for image in self._images(domain, facts):
            found[f"{stem}.{image.role}.image"] = OutputFile(image.template())
        preview = deployment(
            vm_attributes(domain, self.options),
            cdroms=frozenset(disk.vdev for disk in domain.disks if disk.cdrom),
            release=self.options.release,
        )
        found[f"{stem}.deployment"] = OutputFile(preview, permissions(domain))
        return found

    def _images(self, domain: Domain, facts: BuildFacts) -> list[Image]:
        return images(domain, facts, self.options.datastore, self.options.files_datastore)

    def _commented(self, domain: Domain, facts: BuildFacts) -> str:
        stem = f"{domain.name}.{domain.mode}.one"
        made = self._images(domain, facts)
        steps = [f"# oneimage create {stem}.{i.role}.image -d {i.datastore}\n" for i in made]
        found = [*steps, f"# onetemplate create {stem}.vm\n", *self._warnings(domain)]
        return "".join(found) + self.text(domain, facts)

    def _warnings(self, domain: Domain) -> list[str]:
        if not domain.nics or (self.options.network is not None and not self.options.mac):
            return []
        if self.options.network is not None:
            return [
                "# OpenNebula takes NIC/MAC from the group oneadmin only (VM_RESTRICTED_ATTR).\n"
            ]
        return [
            "# OpenNebula takes NIC/MAC and NIC/BRIDGE from the group oneadmin only\n",
            "# (VM_RESTRICTED_ATTR); --option network=NAME leaves them out.\n",
        ]


EMITTER = OpenNebulaEmitter()
