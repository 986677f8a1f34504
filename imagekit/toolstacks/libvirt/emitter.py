"""libvirt domain XML for its Xen driver (``type='xen'``; machines xenpv, xenpvh, xenfv).

The schema accepts much that the driver then misreads, so what the driver does is checked here:
``src/libxl/libxl_conf.c`` and ``libxl_domain.c`` of libvirt, docs/formatdomain, docs/drvxen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from lxml import etree

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.domain.vdev import parse_vdev
from imagekit.errors import CapabilityError
from imagekit.toolstacks.libvirt.devices import add_disk, add_nic
from imagekit.toolstacks.libvirt.xml import Element, add
from imagekit.toolstacks.output import Line, OutputFile, permissions

OS_TYPES = {"pv": ("linux", "xenpv"), "pvh": ("xenpvh", "xenpvh"), "hvm": ("hvm", "xenfv")}
ARCHES = {"x86_64": "x86_64", "i386": "i686"}
BOOT_DEVICES = {"c": "hd", "d": "cdrom", "n": "network", "a": "fd"}

MIN_SHARES = 2
"""The least of ``<shares>``, VIR_CGROUP_CPU_SHARES_MIN: libvirt takes a weight for cgroup's."""

OVMF = "/usr/share/ovmf/OVMF.fd"
"""Only the loader's type is read (pflash means UEFI); libxl has the path of OVMF built in."""


def emit(domain: Domain) -> str:
    """The XML of ``domain``; raises CapabilityError for what libvirt's Xen driver cannot do."""
    return _serialise(_tree(domain, {}))


def config_lines(domain: Domain) -> list[Line]:
    """The XML line by line, each with the field it words."""
    fields: dict[Element, str] = {}
    tree = _tree(domain, fields)
    text = _serialise(tree)
    by_line: dict[int, str] = {}
    parsed = etree.fromstring(text.encode(), etree.XMLParser(resolve_entities=False))
    for ours, read in zip(tree.iter(), parsed.iter(), strict=True):
        by_line.setdefault(read.sourceline, _field(ours, fields))
    return [Line(line, by_line.get(n, "")) for n, line in enumerate(text.splitlines(), 1)]


def _field(element: Element, fields: Mapping[Element, str]) -> str:
    current: Element | None = element
    while current is not None:
        if current in fields:
            return fields[current]
        current = current.getparent()
    return ""


def _serialise(tree: Element) -> str:
    return str(etree.tostring(tree, pretty_print=True, encoding="unicode"))


def check(domain: Domain) -> None:
    """Raise CapabilityError for a domain that the driver would change or refuse."""
    if domain.raw:
        _cannot("libvirt's XML has no place for raw settings", "raw", "leave them to xl")
    if domain.cpu.cap is not None:
        _cannot(
            "libvirt's XML cannot cap a Xen domain",
            "cpu.cap",
            "leave it out, and run virsh schedinfo DOMAIN --cap N once it runs",
        )
    if domain.cpu.weight is not None and domain.cpu.weight < MIN_SHARES:
        _cannot(
            f"libvirt takes no weight below {MIN_SHARES}",
            "cpu.weight",
            f"{MIN_SHARES} is all but the same, or take the toolstack xl",
        )
    for field in ("on_poweroff", "on_reboot"):
        if getattr(domain, field).startswith("coredump"):
            _cannot("libvirt dumps a core after a crash only", field, "take it in on_crash")
    boot = domain.boot
    if isinstance(boot, model.Pygrub | model.Netboot):
        # The driver splits at the three characters blank, tab, newline in a row, that is never.
        if len(boot.args) > 1 or any(set(" \t") & set(argument) for argument in boot.args):
            _cannot(
                "libvirt hands all bootloader arguments over as a single one",
                "boot.args",
                "take one without blanks, as in --profile=NAME",
            )
        if boot.args == ("",):
            _cannot("libvirt drops an empty bootloader argument", "boot.args", "leave it out")
        # virDomainDiskInsert; a bootloader reads the first one.
        letters = [parse_vdev(disk.vdev).index for disk in domain.disks]
        if letters[0] != min(letters):
            _cannot(
                f"libvirt sorts disks by their letters, and {domain.disks[0].vdev}, which is to be "
                "booted, would not be the first",
                "disks[0].vdev",
                "give the first disk the first letter, or take the toolstack xl",
            )


def _cannot(what: str, where: str, hint: str) -> NoReturn:
    raise CapabilityError(what, where=where, hint=hint)


def _tree(domain: Domain, fields: dict[Element, str]) -> Element:
    check(domain)

    def note(element: Element, field: str) -> None:
        fields[element] = field

    root = etree.Element("domain", type="xen")
    note(add(root, "name", domain.name), "name")
    note(add(root, "uuid", domain.uuid), "uuid")
    memory = add(root, "memory", str(domain.maxmem_mib or domain.memory_mib), unit="MiB")
    note(memory, "maxmem_mib" if domain.maxmem_mib else "memory_mib")
    note(add(root, "currentMemory", str(domain.memory_mib), unit="MiB"), "memory_mib")
    _add_cpus(root, domain, fields)
    _add_boot(root, domain, fields)
    if domain.mode == "hvm":
        features = add(root, "features")
        for name in ("acpi", "apic", "pae"):
            add(features, name)
        note(features, "mode")
    add(root, "clock", offset="utc")
    note(add(root, "on_poweroff", domain.on_poweroff), "on_poweroff")
    note(add(root, "on_reboot", domain.on_reboot), "on_reboot")
    note(add(root, "on_crash", domain.on_crash), "on_crash")
    devices = add(root, "devices")
    for index, disk in enumerate(domain.disks):
        note(add_disk(devices, disk, domain.mode), f"disks[{index}]")
    for index, nic in enumerate(domain.nics):
        note(add_nic(devices, nic, domain.mode, f"nics[{index}]"), f"nics[{index}]")
    _add_console(devices, domain, fields)
    _add_screen(devices, domain, fields)
    return root


def _add_cpus(root: Element, domain: Domain, fields: dict[Element, str]) -> None:
    count = domain.maxvcpus or domain.vcpus
    vcpu = add(root, "vcpu", str(count), placement="static")
    if domain.maxvcpus is not None:
        vcpu.set("current", str(domain.vcpus))
    fields[vcpu] = "vcpus"
    if domain.cpu.weight is None and not domain.cpu.pins:
        return
    tune = add(root, "cputune")
    fields[tune] = "cpu.pins" if domain.cpu.pins else "cpu.weight"
    if domain.cpu.weight is not None:
        fields[add(tune, "shares", str(domain.cpu.weight))] = "cpu.weight"
    if domain.cpu.pins:
        # Not as <vcpu cpuset=>, which the driver reads no more (libxlSetVcpuAffinities).
        cpus = model.pin_ranges(domain.cpu.pins)
        for number in range(count):
            fields[add(tune, "vcpupin", vcpu=str(number), cpuset=cpus)] = "cpu.pins"


def _add_boot(root: Element, domain: Domain, fields: dict[Element, str]) -> None:
    boot = domain.boot
    if isinstance(boot, model.Pygrub | model.Netboot):
        program = "pygrub" if isinstance(boot, model.Pygrub) else boot.program
        fields[add(root, "bootloader", program)] = "boot.program"
        if boot.args:
            fields[add(root, "bootloader_args", boot.args[0])] = "boot.args"
    system = add(root, "os")
    fields[system] = "boot"
    kind, machine = OS_TYPES[domain.mode]
    fields[add(system, "type", kind, arch=ARCHES[domain.arch], machine=machine)] = "mode"
    if isinstance(boot, model.Pvgrub):
        fields[add(system, "kernel", boot.image_path)] = "boot.image_path"
    elif isinstance(boot, model.DirectKernel):
        fields[add(system, "kernel", boot.kernel)] = "boot.kernel"
        if boot.initrd is not None:
            fields[add(system, "initrd", boot.initrd)] = "boot.initrd"
        if boot.cmdline:
            fields[add(system, "cmdline", boot.cmdline)] = "boot.cmdline"
    elif isinstance(boot, model.Firmware):
        if boot.kind == "uefi":
            loader = add(system, "loader", OVMF, readonly="yes", type="pflash")
            fields[loader] = "boot.kind"
        for letter in boot.boot_order:
            fields[add(system, "boot", dev=BOOT_DEVICES[letter])] = "boot.boot_order"


def _add_console(devices: Element, domain: Domain, fields: dict[Element, str]) -> None:
    if domain.mode != "hvm":
        console = add(devices, "console", type="pty")
        add(console, "target", type="xen", port="0")
        fields[console] = "mode"
    elif domain.serial is not None:
        serial = add(devices, "serial", type=domain.serial)
        add(serial, "target", port="0")
        console = add(devices, "console", type=domain.serial)
        add(console, "target", type="serial", port="0")
        fields[serial] = fields[console] = "serial"


def _add_screen(devices: Element, domain: Domain, fields: dict[Element, str]) -> None:
    vnc = domain.graphics
    if vnc is not None:
        screen = add(devices, "graphics", type="vnc", listen=vnc.listen)
        screen.set("port", "-1" if vnc.display is None else str(5900 + vnc.display))
        screen.set("autoport", "yes" if vnc.display is None else "no")
        if vnc.password is not None:
            screen.set("passwd", vnc.password)
        if vnc.keymap is not None:
            screen.set("keymap", vnc.keymap)
        fields[screen] = "graphics"
    if domain.mode == "hvm":
        # As xl has it, with a screen or without: a boot loader may want to draw on some card.
        fields[_add_video(devices, "cirrus")] = "mode"
    elif vnc is not None:
        fields[add(devices, "input", type="mouse", bus="xen")] = "graphics"
        fields[_add_video(devices, "xen")] = "graphics"


def _add_video(devices: Element, kind: str) -> Element:
    video = add(devices, "video")
    add(video, "model", type=kind)
    return video


class LibvirtEmitter:
    """The ``libvirt`` toolstack."""

    name = "libvirt"

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return config_lines(domain)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return emit(domain)

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """One file, ``NAME.MODE.xml``."""
        return {f"{domain.name}.{domain.mode}.xml": OutputFile(emit(domain), permissions(domain))}


EMITTER = LibvirtEmitter()
