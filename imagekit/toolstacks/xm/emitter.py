"""Configs for xm and xend (Xen up to 4.4), in the subset that xl reads alike where there is one.

xm executes the file as Python 2, so that unquoted text would be code run as root: the file holds
assignments of literals alone. Keys that xm and xl name differently (``bootargs`` and
``bootloader_args``, ``cpu_cap`` and ``cap``) are written twice; each tool ignores the other's.
Sources: ``tools/python/xen/xm/create.py``, ``opts.py`` and ``xen/xend`` of Xen 4.4.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NoReturn

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain, Nic, RawValue
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError
from imagekit.toolstacks.literals import literal, spec_value
from imagekit.toolstacks.output import Line, OutputFile, joined, permissions
from imagekit.toolstacks.screen import vnc_pairs
from imagekit.toolstacks.xm.items import disk_item, nic_pairs
from imagekit.toolstacks.xm.keys import check_raw_key
from imagekit.toolstacks.xm.sxp import sxp_lines

Setting = tuple[str, RawValue, str]
"""A key, its value, and the field of the domain it words."""


def emit(domain: Domain, *, sxp: bool = False) -> str:
    """The config of ``domain`` as Python (or as the S-expression that ``xm new -F`` takes).

    Raises CapabilityError for what xend never had (PVH, UEFI, a direct kernel in HVM) and
    SpecError for values its grammar cannot hold.
    """
    return joined(config_lines(domain, sxp=sxp))


def config_lines(domain: Domain, *, sxp: bool = False) -> list[Line]:
    """The config line by line, each with the field it words."""
    check(domain)
    if sxp:
        return sxp_lines(domain)
    lines = []
    for key, value, field in _settings(domain):
        if isinstance(value, tuple) and value and key in ("disk", "vif"):
            lines.append(Line(f"{key} = [", field))
            for index, item in enumerate(value):
                where = f"{field}[{index}]"
                lines.append(Line(f"  {literal(item, where)},", where))
            lines.append(Line("]"))
        else:
            lines.append(Line(f"{key} = {literal(value, field)}", field))
    if not all(line.text.isascii() for line in lines):
        # Python 2 refuses other than ASCII without it; to xl it is a comment.
        lines.insert(0, Line("# -*- coding: utf-8 -*-"))
    return lines


def check(domain: Domain) -> None:
    """Raise CapabilityError or SpecError for a domain that xend cannot have."""
    if domain.mode == "pvh":
        _cannot("xend knows no PVH", "mode", "take pv or hvm, or the toolstack xl")
    if isinstance(domain.boot, model.Firmware) and domain.boot.kind == "uefi":
        _cannot("xend boots HVM through BIOS only", "boot", "take BIOS, or the toolstack xl")
    if domain.mode == "hvm" and isinstance(domain.boot, model.DirectKernel):
        _cannot(
            "in HVM xend uses the kernel setting for hvmloader",
            "boot",
            "boot through firmware, or take the toolstack xl",
        )
    for index, nic in enumerate(domain.nics):
        if nic.gatewaydev is not None:
            _cannot("xm knows no gatewaydev", f"nics[{index}].gatewaydev", "leave it out")
        if nic.rate is not None and nic.rate.bytes_per_second >= 2**32:
            refuse("xend takes rates below 4 GiB/s", f"nics[{index}].rate", "lower it")
    for index, disk in enumerate(domain.disks):
        _check_target(disk, f"disks[{index}].target")
    for field in ("on_poweroff", "on_reboot"):
        if getattr(domain, field).startswith("coredump"):
            refuse("xend dumps a core after a crash only", field, "take it in on_crash")
    for key, _ in domain.raw:
        check_raw_key(key)


def _cannot(what: str, where: str, hint: str) -> NoReturn:
    raise CapabilityError(what, where=where, hint=hint)


def _check_target(disk: Disk, where: str) -> None:
    if disk.target is None:
        return
    for character in ",=":
        if character in disk.target:
            refuse(
                f"{disk.target!r} holds {character!r}, which xm's disk items cannot",
                where,
                "rename the file, or take the toolstack xl",
            )


def _settings(domain: Domain) -> Iterator[Setting]:
    yield "name", domain.name, "name"
    yield "uuid", domain.uuid, "uuid"
    if domain.mode == "hvm":
        # No builder line for PV: xl refuses xm's own default of "linux".
        yield "builder", "hvm", "mode"
    yield "memory", domain.memory_mib, "memory_mib"
    if domain.maxmem_mib is not None:
        yield "maxmem", domain.maxmem_mib, "maxmem_mib"
    yield "vcpus", domain.vcpus, "vcpus"
    if domain.maxvcpus is not None:
        yield "maxvcpus", domain.maxvcpus, "maxvcpus"
    yield from _boot(domain)
    if domain.disks:
        yield "disk", tuple(disk_item(d) for d in domain.disks), "disks"
    if domain.nics:
        yield "vif", tuple(_nic(n, f"nics[{i}]") for i, n in enumerate(domain.nics)), "nics"
    yield from _screen(domain)
    if domain.cpu.weight is not None:
        yield "cpu_weight", domain.cpu.weight, "cpu.weight"
    if domain.cpu.cap is not None:
        yield "cpu_cap", domain.cpu.cap, "cpu.cap"
        yield "cap", domain.cpu.cap, "cpu.cap"
    if domain.cpu.pins:
        yield "cpus", model.pin_ranges(domain.cpu.pins), "cpu.pins"
    yield "on_poweroff", domain.on_poweroff, "on_poweroff"
    yield "on_reboot", domain.on_reboot, "on_reboot"
    yield "on_crash", domain.on_crash, "on_crash"
    for key, value in domain.raw:
        yield key, value, f"raw.{key}"


def _boot(domain: Domain) -> Iterator[Setting]:
    boot = domain.boot
    if isinstance(boot, model.Firmware):
        yield "kernel", "hvmloader", "boot.kind"
        yield "device_model", "qemu-dm", "boot.kind"
        yield "boot", boot.boot_order, "boot.boot_order"
    elif isinstance(boot, model.Pvgrub):
        yield "kernel", boot.image_path, "boot.image_path"
    elif isinstance(boot, model.DirectKernel):
        yield "kernel", boot.kernel, "boot.kernel"
        if boot.initrd is not None:
            yield "ramdisk", boot.initrd, "boot.initrd"
        if boot.cmdline:
            yield "extra", boot.cmdline, "boot.cmdline"
    else:
        program = "pygrub" if isinstance(boot, model.Pygrub) else boot.program
        yield "bootloader", program, "boot.program"
        if boot.args:
            yield "bootargs", shlex.join(boot.args), "boot.args"
            yield "bootloader_args", boot.args, "boot.args"


def _nic(nic: Nic, where: str) -> str:
    return ",".join(f"{key}={value}" for key, value in nic_pairs(nic, where))


def _screen(domain: Domain) -> Iterator[Setting]:
    if domain.mode == "hvm":
        for key, value in vnc_pairs(domain.graphics) if domain.graphics else [("vnc", 0)]:
            yield key, value, "graphics"
        if domain.serial is not None:
            yield "serial", domain.serial, "serial"
    elif domain.graphics is not None:
        pairs = [f"{k}={spec_value(str(v), 'graphics')}" for k, v in vnc_pairs(domain.graphics)]
        yield "vfb", (",".join(pairs),), "graphics"


class XmEmitter:
    """The ``xm`` toolstack; ``sxp`` picks the S-expression form."""

    name = "xm"

    def __init__(self, *, sxp: bool = False) -> None:
        self.sxp = sxp

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return config_lines(domain, sxp=self.sxp)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return emit(domain, sxp=self.sxp)

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """One file, ``NAME.MODE.xm.cfg`` or ``NAME.MODE.sxp``."""
        ending = "sxp" if self.sxp else "xm.cfg"
        text = emit(domain, sxp=self.sxp)
        return {f"{domain.name}.{domain.mode}.{ending}": OutputFile(text, permissions(domain))}


EMITTER = XmEmitter()
