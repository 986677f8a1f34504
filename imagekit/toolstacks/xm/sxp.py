"""A domain as the S-expression that xend keeps: ``xm list -l``, ``xm new -F``.

Source: ``tools/python/xen/xm/create.py`` (``make_config``) and ``xen/xend/sxp.py`` of Xen 4.4.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from imagekit.domain import model
from imagekit.domain.model import Disk, Domain
from imagekit.domain.text import one_line, refuse
from imagekit.toolstacks.output import Line
from imagekit.toolstacks.screen import vnc_pairs
from imagekit.toolstacks.xm.items import disk_uname, nic_pairs

Sxp = str | int | Sequence["Sxp"]

HVM_DEFAULTS = ("pae", "acpi", "apic", "hap")
"""What ``xm create`` sets to 1 in every HVM image; xend itself takes 0 for what is missing
(``xend/image.py``), and no amd64 guest starts without PAE.
"""

_ATOM = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./:~-]*")


def write(value: Sxp, where: str = "value") -> str:
    """``value`` as text: lists in parentheses, other than plain atoms in double quotes."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        one_line(value, where, tab=True)
        if _ATOM.fullmatch(value):
            return value
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
        return f'"{escaped}"'
    return f"({' '.join(write(item, where) for item in value)})"


def sxp_lines(domain: Domain) -> list[Line]:
    """The expression, one member per line; for domains that ``xm.check`` has passed."""
    if domain.raw:
        refuse("the S-expression form takes no raw settings", "raw", "leave out --sxp")
    members: list[tuple[Sxp, str]] = [
        (("name", domain.name), "name"),
        (("uuid", domain.uuid), "uuid"),
        (("memory", domain.memory_mib), "memory_mib"),
        (("maxmem", domain.maxmem_mib or domain.memory_mib), "maxmem_mib"),
    ]
    if domain.maxvcpus is not None:
        members.append((("vcpu_avail", (1 << domain.vcpus) - 1), "vcpus"))
    members.append((("vcpus", domain.maxvcpus or domain.vcpus), "vcpus"))
    if domain.cpu.pins:
        members.append((("cpus", model.pin_ranges(domain.cpu.pins)), "cpu.pins"))
    if domain.cpu.cap is not None:
        members.append((("cpu_cap", domain.cpu.cap), "cpu.cap"))
    if domain.cpu.weight is not None:
        members.append((("cpu_weight", domain.cpu.weight), "cpu.weight"))
    for field in ("on_poweroff", "on_reboot", "on_crash"):
        members.append(((field, getattr(domain, field)), field))
    members += _boot(domain)
    members += _devices(domain)
    lines = [Line("(vm")]
    lines += [Line(f"    {write(member, field)}", field) for member, field in members]
    return [*lines, Line(")")]


def _boot(domain: Domain) -> list[tuple[Sxp, str]]:
    boot = domain.boot
    if isinstance(boot, model.Firmware):
        image: list[Sxp] = ["hvm", ("kernel", "hvmloader"), ("device_model", "qemu-dm")]
        image += [(key, 1) for key in HVM_DEFAULTS]
        image.append(("boot", boot.boot_order))
        if domain.serial is not None:
            image.append(("serial", domain.serial))
        image += _vnc(domain.graphics) if domain.graphics else [("vnc", 0)]
        return [(("image", image), "boot")]
    if isinstance(boot, model.Pygrub | model.Netboot):
        program = "pygrub" if isinstance(boot, model.Pygrub) else boot.program
        return [
            (("bootloader", program), "boot.program"),
            (("bootloader_args", shlex.join(boot.args) or "-q"), "boot.args"),
            (("image", ("linux",)), "boot"),
        ]
    if isinstance(boot, model.Pvgrub):
        return [(("image", ("linux", ("kernel", boot.image_path))), "boot.image_path")]
    parts: list[Sxp] = ["linux", ("kernel", boot.kernel)]
    if boot.initrd is not None:
        parts.append(("ramdisk", boot.initrd))
    if boot.cmdline:
        parts.append(("args", boot.cmdline))
    return [(("image", parts), "boot")]


def _vnc(vnc: model.Vnc) -> list[Sxp]:
    return list(vnc_pairs(vnc))


def _devices(domain: Domain) -> list[tuple[Sxp, str]]:
    devices: list[tuple[Sxp, str]] = []
    for index, disk in enumerate(domain.disks):
        devices.append((("device", _disk(disk)), f"disks[{index}]"))
    for index, nic in enumerate(domain.nics):
        where = f"nics[{index}]"
        devices.append((("device", ("vif", *nic_pairs(nic, where))), where))
    if domain.graphics is not None and domain.mode != "hvm":
        devices.append((("device", ("vkbd",)), "graphics"))
        devices.append((("device", ("vfb", *_vnc(domain.graphics))), "graphics"))
    return devices


def _disk(disk: Disk) -> Sxp:
    uname = disk_uname(disk)
    kind = next((k for k in ("tap2", "tap") if uname.startswith(f"{k}:")), "vbd")
    vdev = f"{disk.vdev}:cdrom" if disk.cdrom else disk.vdev
    return (kind, ("uname", uname), ("dev", vdev), ("mode", "r" if disk.readonly else "w"))
