"""Disks and NICs in libvirt's XML, as its Xen driver reads them.

Source: ``libxlMakeDisk`` and ``libxlMakeNic`` in ``src/libxl/libxl_conf.c`` of libvirt.
"""

from __future__ import annotations

import re
from typing import NoReturn

from imagekit.domain import model
from imagekit.domain.model import Disk, Mode, Nic
from imagekit.domain.vdev import parse_vdev
from imagekit.errors import CapabilityError
from imagekit.toolstacks.libvirt.xml import Element, add

DRIVERS = {"phy": "phy", "qdisk": "qemu", "tap": "tap"}
"""Back-end to driver name. The name decides: without one the driver takes any format for raw."""

BUSES = {"xvd": "xen", "hd": "ide", "sd": "scsi"}

RATE_UNIT = 1024
"""``average`` is in KiB/s (libxl_conf.c multiplies it by 1024)."""


def add_disk(devices: Element, disk: Disk, mode: Mode) -> Element:
    """The ``<disk>`` of ``disk`` under ``devices``."""
    kind = "block" if disk.block else "file"
    element = add(devices, "disk", type=kind, device="cdrom" if disk.cdrom else "disk")
    backend = disk.backend or (None if disk.format == "raw" else "qdisk")
    driver = add(element, "driver", type=disk.format)
    if backend is not None:
        driver.set("name", DRIVERS[backend])
    if disk.target is not None:
        source = add(element, "source")
        source.set("dev" if disk.block else "file", disk.target)
    bus = BUSES[parse_vdev(disk.vdev).bus] if mode == "hvm" else "xen"
    add(element, "target", dev=disk.vdev, bus=bus)
    if disk.readonly:
        add(element, "readonly")
    return element


def add_nic(devices: Element, nic: Nic, mode: Mode, where: str) -> Element:
    """The ``<interface>`` of ``nic``; CapabilityError for what the driver cannot pass to libxl."""
    _check(nic, where)
    element = add(devices, "interface", type="bridge" if nic.bridge else "ethernet")
    add(element, "mac", address=nic.mac)
    script = nic.script
    if nic.bridge is not None:
        if script is not None and script.rsplit("/", 1)[-1] == "vif-openvswitch":
            _add_openvswitch(element, nic.bridge, where)
            script = None if script == "vif-openvswitch" else script
        else:
            add(element, "source", bridge=nic.bridge)
    for ip in nic.ips:
        add(element, "ip", address=ip, family="ipv6" if ":" in ip else "ipv4")
    if script is not None:
        add(element, "script", path=script)
    if nic.name is not None:
        add(element, "target", dev=nic.name)
    if mode == "hvm" and nic.type == "vif":
        # The driver's word for a PV NIC without an emulated twin.
        add(element, "model", type="netfront")
    elif nic.model is not None:
        add(element, "model", type=nic.model)
    if nic.rate is not None:
        bandwidth = add(element, "bandwidth")
        add(bandwidth, "outbound", average=str(average(nic.rate)))
    return element


def average(rate: model.Rate) -> int:
    """A rate in libvirt's KiB/s, to the nearest, at least one."""
    return max(1, (rate.bytes_per_second + RATE_UNIT // 2) // RATE_UNIT)


def _check(nic: Nic, where: str) -> None:
    if nic.gatewaydev is not None:
        _cannot(
            "libvirt passes no gatewaydev on",
            f"{where}.gatewaydev",
            "set vif.default.gatewaydev in dom0's xl.conf, or take the toolstack xl",
        )
    if nic.rate is not None and nic.rate.interval_us != model.DEFAULT_RATE_INTERVAL_US:
        _cannot("libvirt grants rates every 50 ms", f"{where}.rate", "leave out the interval")


def _cannot(what: str, where: str, hint: str) -> NoReturn:
    raise CapabilityError(what, where=where, hint=hint)


def _add_openvswitch(element: Element, bridge: str, where: str) -> None:
    name = re.split(r"[.:]", bridge)[0]
    tag = re.search(r"\.([0-9]+)", bridge)
    trunks = re.findall(r":([0-9]+)", bridge)
    if tag and trunks:
        _cannot(
            "libvirt takes a VLAN tag or trunks, not both",
            f"{where}.bridge",
            "take one, or the toolstack xl",
        )
    add(element, "source", bridge=name)
    add(element, "virtualport", type="openvswitch")
    if tag:
        add(add(element, "vlan"), "tag", id=str(int(tag[1])))
    elif trunks:
        vlan = add(element, "vlan", trunk="yes")
        for trunk in trunks:
            add(vlan, "tag", id=str(int(trunk)))
