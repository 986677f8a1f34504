"""Reads libvirt's domain XML as far as a proof must know it: the guest's kind and what it names.

Sources: docs/formatdomain and ``src/conf/domain_conf.c`` of libvirt 9.0. The XML itself goes to
virsh byte for byte; this reading only prepares what libvirtd will look for.
"""

from __future__ import annotations

import re
from pathlib import Path

from lxml import etree

from imagekit.errors import SpecError
from imagekit.proof.guestconfig import GuestConfig, GuestDisk, GuestNic, boot_path
from imagekit.toolstacks.libvirt.xml import Element

_UNITS = {"": 1 << 10, "b": 1, "bytes": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_UNITS |= {f"{letter}{end}": 1 << 10 * power for power, letter in enumerate("KMGT", 1)
           for end in ("", "iB")} | {"k": 1 << 10}  # fmt: skip
"""Bytes of a memory unit (virScaleInteger in src/util/virutil.c); none means KiB."""

_MODES = {"linux": "pv", "xen": "pv", "xenpvh": "pvh", "hvm": "hvm"}
"""What <os><type> says."""

_FORMATS = {"qemu": "raw", "phy": "raw", "file": "raw"}
"""The format where <driver> names itself only; without <driver> it is raw, too (libxl_conf.c)."""


def parse_xml(data: bytes, path: Path) -> GuestConfig:
    """The domain XML in ``data``; ``path`` is for messages."""
    where = str(path)
    root = _tree(data, where)
    name = _text(root, "name")
    if not name:
        raise SpecError("the XML names no domain", where=where)
    mode = _MODES.get(_text(root, "os/type") or "")
    if mode is None:
        raise SpecError("<os><type> is not linux, xenpvh or hvm", where=where)
    kernel, bootloader = _text(root, "os/kernel"), _text(root, "bootloader")
    loader = root.find("os/loader")
    system = root.find("os")
    uefi = system.get("firmware") == "efi" or (
        loader is not None and loader.get("type") == "pflash"
    )
    return GuestConfig(
        toolstack="libvirt",
        path=path,
        data=data,
        name=name,
        mode=mode,
        boot=boot_path(mode, kernel, bootloader, uefi=uefi),
        memory_mib=max(_mib(root, where), 32),
        kernel=kernel,
        ramdisk=_text(root, "os/initrd"),
        bootloader=bootloader,
        disks=tuple(_disk(disk, where) for disk in root.iterfind("devices/disk")),
        nics=tuple(_nic(nic) for nic in root.iterfind("devices/interface")),
        serial=root.find("devices/serial") is not None,
    )


def _tree(data: bytes, where: str) -> Element:
    # Without a document type there are no entities, neither to expand nor to fetch.
    if b"<!DOCTYPE" in data:
        raise SpecError("domain XML has no document type", where=where)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        line = f"{where}:{error.lineno}" if error.lineno else where
        raise SpecError(f"not XML: {error.msg}", where=line) from None
    if root.tag != "domain" or root.get("type") != "xen":
        raise SpecError("is not the XML of a Xen domain (<domain type='xen'>)", where=where)
    return root


def _text(root: Element, path: str) -> str | None:
    found = root.find(path)
    return (found.text or "").strip() or None if found is not None else None


def _mib(root: Element, where: str) -> int:
    """MiB that the domain starts with: <currentMemory>, or <memory>."""
    found = root.find("currentMemory")
    found = found if found is not None else root.find("memory")
    text = (found.text or "").strip() if found is not None else ""
    unit = _UNITS.get(found.get("unit", "")) if found is not None else None
    if unit is None or not re.fullmatch(r"[0-9]{1,18}", text):
        raise SpecError("<memory> is not a number with a unit", where=where)
    return -(-int(text) * unit >> 20)


def _disk(disk: Element, where: str) -> GuestDisk:
    source, driver, target = (disk.find(name) for name in ("source", "driver", "target"))
    vdev = target.get("dev") if target is not None else None
    if not vdev:
        raise SpecError("a <disk> has no <target dev=...>", where=where)
    kind = disk.get("type", "file")
    if kind not in ("file", "block"):
        raise SpecError(f"the disk {vdev} is of type {kind!r}, not file or block", where=where)
    path = None if source is None else source.get("dev" if kind == "block" else "file")
    cdrom = disk.get("device") == "cdrom"
    image_format = "raw" if driver is None else driver.get("type") or _default(driver, where)
    return GuestDisk(
        path=path or None,
        format=image_format if path else "empty",
        vdev=vdev,
        readonly=cdrom or disk.find("readonly") is not None,
        cdrom=cdrom,
    )


def _default(driver: Element, where: str) -> str:
    name = driver.get("name") or "qemu"
    if name not in _FORMATS:
        raise SpecError(f"the driver {name!r} of a disk cannot be proven here", where=where)
    return _FORMATS[name]


def _nic(nic: Element) -> GuestNic:
    mac, source = nic.find("mac"), nic.find("source")
    address = mac.get("address") if mac is not None else None
    return GuestNic(
        address.lower().replace("-", ":") if address else None,
        source.get("bridge") if source is not None else None,
    )
