"""The domain options of Quattor's component ncm-xen, and the config it writes from them.

ncm-xen writes ``key = 'value'`` without escaping, the keys in alphabetical order with ``bootargs``
last, because it refers to ``vif``; a value with a ``[`` in it goes unquoted, which is how
``bootargs = vif[0]`` comes about. It edits the file line by line and uses the value as a Perl
pattern there. Source: configuration-modules-core 14.4, ``ncm-xen/src/main/perl/xen.pm`` and
``pan/components/xen/schema.pan``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from imagekit.domain import model
from imagekit.domain.model import Disk, Domain, Nic
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError
from imagekit.toolstacks.quattor import pan

_VIF = "vif[0]"
_UNSAFE = re.compile(r"['\"\\()\[\]{}*?|^$\t]")
_VOLUME = re.compile(r"/dev/([A-Za-z0-9_.+-]+)/([A-Za-z0-9_.+-]+)")
_NOT_GROUPS = ("block", "cciss", "disk", "loop", "mapper", "md", "shm", "zvol")
"""Directories of /dev that are no LVM volume groups."""

HEADER = (
    "#  -*- mode: python; -*-",
    "# A domain for 'xm create', as ncm-xen writes it.",
)


@dataclass(frozen=True)
class Option:
    """An entry of ``domains/NAME/options`` and the domain's field it words."""

    key: str
    value: pan.Value
    field: str


def options(domain: Domain, sizes_mib: list[int | None]) -> list[Option]:
    """What ncm-xen is told of ``domain``, whose disks have ``sizes_mib``.

    Raises CapabilityError for a mode or format it never had, SpecError for a setting it has no
    option for, or that it would garble.
    """
    _check(domain)
    found = [
        Option("name", safe(domain.name, "name"), "name"),
        Option("memory", domain.memory_mib, "memory_mib"),
        Option("vcpus", domain.vcpus, "vcpus"),
        *_boot(domain),
    ]
    if domain.disks:
        disks = [
            _disk(disk, size, f"disks[{i}]")
            for i, (disk, size) in enumerate(zip(domain.disks, sizes_mib, strict=True))
        ]
        found.append(Option("disk", disks, "disks"))
    if domain.nics:
        nics = [_nic(nic, f"nics[{i}]") for i, nic in enumerate(domain.nics)]
        found.append(Option("vif", nics, "nics"))
    if domain.cpu.pins:
        found.append(Option("cpus", model.pin_ranges(domain.cpu.pins), "cpu.pins"))
    if domain.graphics is not None:
        found.append(Option("vfb", _screen(domain.graphics), "graphics"))
    found += [
        Option("on_poweroff", domain.on_poweroff, "on_poweroff"),
        Option("on_reboot", domain.on_reboot, "on_reboot"),
        Option("on_crash", domain.on_crash, "on_crash"),
    ]
    return found


def _cannot(what: str, where: str, hint: str) -> NoReturn:
    raise CapabilityError(what, where=where, hint=hint)


def _check(domain: Domain) -> None:
    if domain.mode != "pv":
        _cannot(
            f"ncm-xen has no options for {domain.mode}: no boot order, no device model, no type",
            "mode",
            "--mode pv, or the toolstack xl",
        )
    if domain.maxmem_mib not in (None, domain.memory_mib):
        refuse("ncm-xen has no maxmem", "maxmem_mib", "leave it out")
    if domain.maxvcpus not in (None, domain.vcpus):
        refuse("ncm-xen has no maxvcpus", "maxvcpus", "leave it out")
    for field in ("weight", "cap"):
        if getattr(domain.cpu, field) is not None:
            refuse(
                f"ncm-xen has no {field}",
                f"cpu.{field}",
                "leave it out; set it with xm sched-credit",
            )
    for field in ("on_poweroff", "on_reboot"):
        if getattr(domain, field).startswith("coredump"):
            refuse("xend dumps a core after a crash only", field, "take it in on_crash")
    if domain.raw:
        refuse("ncm-xen's options are fixed", f"raw.{domain.raw[0][0]}", "leave it out")


def safe(value: str, where: str) -> str:
    """A value that ncm-xen writes as it is; raises SpecError for one it would garble."""
    found = _UNSAFE.search(value)
    if found:
        refuse(
            f"{value!r} holds {found[0]!r}, and ncm-xen escapes values neither for Python nor for "
            f"its own search patterns",
            where,
            "leave that character out, or use another toolstack",
        )
    if not value.isascii():
        refuse(
            f"{value!r} is not ASCII, and ncm-xen's file does not name its encoding to xm",
            where,
            "write it in ASCII, or use another toolstack",
        )
    return value


def _boot(domain: Domain) -> list[Option]:
    boot = domain.boot
    if isinstance(boot, model.Pvgrub):
        return [Option("kernel", safe(boot.image_path, "boot.image_path"), "boot.image_path")]
    if isinstance(boot, model.DirectKernel):
        found = [Option("kernel", safe(boot.kernel, "boot.kernel"), "boot.kernel")]
        if boot.initrd is not None:
            found.append(Option("ramdisk", safe(boot.initrd, "boot.initrd"), "boot.initrd"))
        if boot.cmdline:
            found.append(Option("extra", safe(boot.cmdline, "boot.cmdline"), "boot.cmdline"))
        return found
    program, arguments = "pygrub", boot.args if not isinstance(boot, model.Firmware) else ()
    if isinstance(boot, model.Netboot):
        program = boot.program
    path = program if program.startswith("/") else f"/usr/bin/{program}"
    found = [Option("bootloader", safe(path, "boot.program"), "boot.program")]
    if arguments:
        for item in arguments:
            if not item or re.search(r"[\s#]", item):
                refuse(f"xend splits the argument {item!r} apart", "boot.args", "no blanks, no #")
        text = safe(" ".join(arguments), "boot.args")
        found.append(Option("bootargs", text, "boot.args"))
    elif path.endswith("/pypxeboot") and domain.nics:
        # xm evaluates it: pypxeboot then gets the first NIC's own text as its argument.
        found.append(Option("bootargs", _VIF, "nics[0]"))
    return found


def _disk(disk: Disk, size_mib: int | None, where: str) -> dict[str, pan.Value]:
    if disk.format != "raw":
        _cannot(
            f"ncm-xen hands disks out as phy: and file:, which are raw, not {disk.format}",
            "format",
            "--format raw",
        )
    if disk.cdrom or disk.target is None:
        refuse("ncm-xen has no CD-ROMs", where, "leave it out")
    target = safe(disk.target, f"{where}.target")
    if "," in target:
        refuse(f"{target!r} holds a comma, which splits the item", f"{where}.target", "rename it")
    entry: dict[str, pan.Value] = _place(target)
    entry |= {"guestdevice": disk.vdev, "rw": "r" if disk.readonly else "w"}
    return entry if size_mib is None else entry | {"size": size_mib}


def _place(target: str) -> dict[str, pan.Value]:
    volume = _VOLUME.fullmatch(target)
    if volume and volume[1] not in _NOT_GROUPS:
        return {"type": "lvm", "hostdevice": volume[1], "hostvol": volume[2]}
    if target.startswith("/dev/"):
        return {"type": "phy", "hostdevice": target.removeprefix("/dev/")}
    return {"type": "file", "path": target}


def _nic(nic: Nic, where: str) -> str:
    if nic.gatewaydev is not None:
        refuse("xm knows no gatewaydev", f"{where}.gatewaydev", "leave it out")
    pairs = (
        ("mac", nic.mac),
        ("bridge", nic.bridge),
        ("ip", " ".join(nic.ips) or None),
        ("script", nic.script),
        ("rate", str(nic.rate) if nic.rate else None),
        ("vifname", nic.name),
    )
    for key, value in pairs:
        if value is not None and "," in value:
            refuse(f"{value!r} holds a comma", f"{where}.{key}", "leave it out")
    # Not safe(): the model's rules leave these fields no character that needs it.
    return ",".join(f"{key}={value}" for key, value in pairs if value is not None)


def _screen(vnc: model.Vnc) -> str:
    """The value of ``vfb``, a Python list: its bracket keeps ncm-xen from quoting it."""
    parts = ["type=vnc", f"vnclisten={vnc.listen}"]
    parts.append("vncunused=1" if vnc.display is None else "vncunused=0")
    if vnc.display is not None:
        parts.append(f"vncdisplay={vnc.display}")
    if vnc.password is not None:
        parts.append(f"vncpasswd={safe(vnc.password, 'graphics.password')}")
    if vnc.keymap is not None:
        parts.append(f"keymap={vnc.keymap}")
    return f"['{','.join(parts)}']"


def config_file(found: list[Option]) -> str:
    """``/etc/xen/NAME`` as ncm-xen leaves it, but for the date in its header."""
    # createConfigFile of xen.pm: bootargs after everything else.
    ordered = sorted(found, key=lambda option: (option.key == "bootargs", option.key))
    lines = [*HEADER, *(f"{option.key} = {_written(option)}" for option in ordered)]
    return "".join(f"{line}\n" for line in lines)


def _written(option: Option) -> str:
    if option.key == "disk":
        return f"[{','.join(_vbd(entry) for entry in _items(option.value))}]"
    if option.key == "vif":
        return "[" + ",".join(f"'{item}'" for item in _items(option.value)) + "]"
    text = str(option.value)
    return text if "[" in text else f"'{text}'"


def _items(value: pan.Value) -> list[pan.Value]:
    return list(value) if isinstance(value, list) else []


def _vbd(entry: pan.Value) -> str:
    values = entry if isinstance(entry, dict) else {}
    uname = {
        "lvm": "phy:/dev/{hostdevice}/{hostvol}",
        "phy": "phy:/dev/{hostdevice}",
        "file": "file:{path}",
    }[str(values["type"])].format_map(values)
    return f"'{uname},{values['guestdevice']},{values['rw']}'"
