"""What a valid domU is, whatever the toolstack: names, MACs, paths, device names, boot paths.

The rules come from what xl, xm and libvirt accept together (xl.cfg(5), xl-disk-configuration(5),
xl-network-configuration(5); ``tools/libs/light`` and ``tools/python/xen/xend`` of Xen), because
several toolstacks accept silently what they then get wrong.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import get_args

from imagekit.domain import parts
from imagekit.domain.nicrules import check_ip, check_nics
from imagekit.domain.parts import Boot, Cpu, Disk, Fields, Vnc
from imagekit.domain.text import absolute_path, choice, number, one_line, refuse
from imagekit.domain.vdev import parse_vdev

MAX_CMDLINE_BYTES = 1023
"""MAX_GUEST_CMDLINE is 1024 with its NUL, cut silently (``xen/include/public/xen.h``)."""
MAX_MEMORY_MIB = 16 * 1024 * 1024
MAX_VCPUS = {"pv": 512, "pvh": 128, "hvm": 128}
"""HVM_MAX_VCPUS of ``xen/include/public/hvm/hvm_info_table.h``; PV as SUPPORT.md of Xen has it."""
EMULATED_DISKS = 4
"""HVM: hda..hdd and xvda..xvdd become IDE disks (``tools/libs/light/libxl_dm.c``)."""

_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.:+-]{0,63}")
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_PASSWORD = re.compile(r"[!-+.-~-]{1,8}")
_KEYMAP = re.compile(r"[a-z]{2,3}(-[a-z]{2,8})?")
_RAW_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")


def validate(domain: Fields) -> None:
    """Raise SpecError with the field as ``where`` unless ``domain`` can exist under Xen."""
    check_name(domain.name)
    _check_uuid(domain.uuid)
    choice(domain.mode, parts.MODES, "mode")
    choice(domain.arch, get_args(parts.Arch), "arch")
    _check_size(domain)
    for field in ("on_poweroff", "on_reboot", "on_crash"):
        choice(getattr(domain, field), get_args(parts.Action), field)
    _check_boot(domain.boot, domain)
    _check_disks(domain)
    check_nics(domain.nics, domain.mode)
    _check_cpu(domain.cpu)
    if domain.graphics is not None:
        _check_vnc(domain.graphics)
    if domain.serial is not None:
        choice(domain.serial, ("pty",), "serial")
        if domain.mode != "hvm":
            refuse("an emulated serial port exists on HVM only", "serial", "PV consoles are hvc0")
    _check_raw(domain.raw)


def check_name(name: str, where: str = "name") -> None:
    """A name that xl, xend, libvirt, file names and command lines all take; SpecError."""
    one_line(name, where)
    if _NAME.fullmatch(name) is None:
        refuse(
            f"{name!r} cannot be a domain's name",
            where,
            "1 to 64 letters, digits and _ . : + -, not beginning with . : or -",
        )
    if name.isdigit():
        refuse("a domain's name cannot be all digits: xl reads it as a domain id", where)
    if name == "Domain-0":
        refuse("Domain-0 is dom0's own name", where)


def _check_uuid(text: str) -> None:
    one_line(text, "uuid")
    try:
        canonical: str | None = str(uuid.UUID(text))
    except ValueError:
        canonical = None
    if canonical != text:
        refuse(f"{text!r} is not a UUID in lower case with dashes", "uuid")
    if canonical == str(uuid.UUID(int=0)):
        refuse("the UUID of zeros is dom0's", "uuid")


def _check_size(domain: Fields) -> None:
    number(domain.memory_mib, 1, MAX_MEMORY_MIB, "memory_mib")
    if domain.maxmem_mib is not None:
        number(domain.maxmem_mib, 1, MAX_MEMORY_MIB, "maxmem_mib")
        if domain.maxmem_mib < domain.memory_mib:
            refuse(
                f"maxmem {domain.maxmem_mib} MiB is less than memory {domain.memory_mib} MiB",
                "maxmem_mib",
            )
    limit = MAX_VCPUS[domain.mode]
    number(domain.vcpus, 1, limit, "vcpus")
    if domain.maxvcpus is not None:
        number(domain.maxvcpus, 1, limit, "maxvcpus")
        if domain.maxvcpus < domain.vcpus:
            refuse(f"maxvcpus {domain.maxvcpus} is less than vcpus {domain.vcpus}", "maxvcpus")


def _check_boot(boot: Boot, domain: Fields) -> None:
    if isinstance(boot, parts.Firmware):
        choice(boot.kind, get_args(parts.FirmwareKind), "boot.kind")
        order = boot.boot_order
        if not order or set(order) - set("cdna") or len(set(order)) != len(order):
            refuse(f"{order!r} is not a boot order", "boot.boot_order", "letters of c, d, n, a")
        if domain.mode != "hvm":
            refuse(f"firmware boots HVM only, not {domain.mode}", "boot")
        return
    if isinstance(boot, parts.DirectKernel):
        absolute_path(boot.kernel, "boot.kernel")
        if boot.initrd is not None:
            absolute_path(boot.initrd, "boot.initrd")
        check_cmdline(boot.cmdline)
        return
    if domain.mode == "hvm":
        refuse("HVM boots through firmware or a direct kernel; libxl skips bootloaders", "boot")
    if isinstance(boot, parts.Pvgrub):
        absolute_path(boot.image_path, "boot.image_path")
        return
    for index, item in enumerate(boot.args):
        one_line(item, f"boot.args[{index}]")
    if isinstance(boot, parts.Netboot) and _PROGRAM.fullmatch(boot.program) is None:
        absolute_path(boot.program, "boot.program")
    if not domain.disks or domain.disks[0].target is None:
        refuse(
            "a bootloader in dom0 needs a first disk, even one it only passes on",
            "disks",
            "libxl refuses it with 'cannot run bootloader with no boot disk'",
        )


def check_cmdline(cmdline: str, where: str = "boot.cmdline") -> None:
    """A kernel command line that survives Xen: one line, at most 1023 bytes of UTF-8."""
    one_line(cmdline, where, tab=True)
    size = len(cmdline.encode())
    if size > MAX_CMDLINE_BYTES:
        refuse(
            f"the kernel command line has {size} bytes; Xen cuts it at {MAX_CMDLINE_BYTES}",
            where,
            "shorten it, or boot through pvgrub, which reads it from grub.cfg",
        )


def _check_disks(domain: Fields) -> None:
    taken: dict[int, dict[int | None, str]] = {}
    hvm = domain.mode == "hvm"
    for position, disk in enumerate(domain.disks):
        where = f"disks[{position}]"
        _check_disk(disk, where)
        vdev = parse_vdev(disk.vdev, f"{where}.vdev")
        if hvm and vdev.partition is not None:
            refuse(f"{disk.vdev}: HVM firmware needs whole disks", f"{where}.vdev")
        same = taken.setdefault(vdev.index, {})
        if same and (vdev.partition is None or None in same or vdev.partition in same):
            refuse(
                f"{disk.vdev} and {next(iter(same.values()))} are the same disk to a guest",
                f"{where}.vdev",
                "hda, sda and xvda all become xvda; take another letter",
            )
        same[vdev.partition] = disk.vdev
        if hvm:
            _check_emulated(disk, vdev.index, vdev.bus, where)
        elif disk.target is None:
            refuse("an empty CD-ROM drive exists on HVM only", f"{where}.target")


def _check_disk(disk: Disk, where: str) -> None:
    choice(disk.format, get_args(parts.DiskFormat), f"{where}.format")
    if disk.target is not None:
        absolute_path(disk.target, f"{where}.target")
    elif not disk.cdrom:
        refuse("a disk needs a target", f"{where}.target", "only a CD-ROM drive can be empty")
    if disk.cdrom and not disk.readonly:
        refuse("a CD-ROM is read-only", f"{where}.readonly")
    if disk.cdrom and disk.format != "raw":
        refuse("a CD-ROM is a raw image", f"{where}.format")
    if disk.backend is None:
        return
    choice(disk.backend, get_args(parts.Backend), f"{where}.backend")
    if disk.backend == "phy" and disk.format != "raw":
        refuse(
            f"the phy back-end hands out raw blocks, not {disk.format}",
            f"{where}.backend",
            "qdisk reads every format",
        )
    if disk.backend == "tap" and (disk.format == "qcow2" or disk.cdrom):
        refuse("the tap back-end takes raw and vhd disks", f"{where}.backend", "take qdisk")


def _check_emulated(disk: Disk, index: int, bus: str, where: str) -> None:
    if disk.cdrom and (index >= EMULATED_DISKS or bus == "sd"):
        refuse(
            f"a CD-ROM at {disk.vdev} is invisible to an HVM guest's firmware",
            f"{where}.vdev",
            "put it at hdc or hdd",
        )
    if disk.readonly and not disk.cdrom and index < EMULATED_DISKS and bus != "sd":
        refuse(
            f"{disk.vdev} is read-only, but emulated IDE disks of HVM cannot be",
            f"{where}.vdev",
            "put it at xvde or later, or make it a CD-ROM",
        )


def _check_cpu(cpu: Cpu) -> None:
    if cpu.weight is not None:
        number(cpu.weight, 1, 65535, "cpu.weight")
    if cpu.cap is not None:
        number(cpu.cap, 1, 65535, "cpu.cap")
    for pin in cpu.pins:
        number(pin, 0, 4095, "cpu.pins")
    if list(cpu.pins) != sorted(set(cpu.pins)):
        refuse("CPU numbers go upwards, each once", "cpu.pins")


def _check_vnc(vnc: Vnc) -> None:
    check_ip(vnc.listen, "graphics.listen")
    if ":" in vnc.listen:
        refuse(
            "VNC under Xen listens on an IPv4 address: libxl takes a colon for the display",
            "graphics.listen",
            "127.0.0.1 keeps it to dom0",
        )
    if vnc.display is not None:
        number(vnc.display, 0, 65535 - 5900, "graphics.display")
    if vnc.password is not None and _PASSWORD.fullmatch(vnc.password) is None:
        refuse(
            "a VNC password is 1 to 8 printable ASCII characters without blank or comma",
            "graphics.password",
            "the protocol uses only the first 8",
        )
    if vnc.keymap is not None and _KEYMAP.fullmatch(vnc.keymap) is None:
        refuse(f"{vnc.keymap!r} is not a keymap", "graphics.keymap", "as in en-us, de, fr-ch")


def _check_raw(raw: tuple[tuple[str, parts.RawValue], ...]) -> None:
    seen: set[str] = set()
    for key, value in raw:
        where = f"raw.{key}" if _RAW_KEY.fullmatch(key) else "raw"
        if _RAW_KEY.fullmatch(key) is None:
            refuse(f"{key!r} is not a key", where, "a lower-case letter, then a-z 0-9 _")
        if key in seen:
            refuse("the key is given twice", where)
        seen.add(key)
        for item in _raw_items(value):
            if isinstance(item, str):
                one_line(item, where, tab=True)
            else:
                number(item, 0, 2**31 - 1, where)


def _raw_items(value: parts.RawValue) -> Iterator[parts.RawItem]:
    if not isinstance(value, tuple):
        yield value
        return
    for item in value:
        yield from item if isinstance(item, tuple) else (item,)
