"""What a valid network interface is, and which dom0 script wants what.

Sources: xl-network-configuration(5), the scripts in ``tools/hotplug/Linux``, and ``linux/if.h``
(IFNAMSIZ is 16 with its NUL).
"""

from __future__ import annotations

import ipaddress
import re
from typing import get_args

from imagekit.domain.parts import Mode, Nic, NicType
from imagekit.domain.text import choice, number, one_line, refuse

BRIDGE_SCRIPTS = ("vif-bridge", "vif-openvswitch")
ROUTED_SCRIPTS = ("vif-route", "vif-nat")

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_OVS_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,14}(\.[0-9]{1,4})?((:[0-9]{1,4})*)")
_SCRIPT = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_MODEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_AUTOMATIC_NAME = re.compile(r"(vif|tap)[0-9]")


def check_nics(nics: tuple[Nic, ...], mode: Mode) -> None:
    """Raise SpecError for a NIC that could not work, or two that share a MAC or a name."""
    seen: set[str] = set()
    for position, nic in enumerate(nics):
        where = f"nics[{position}]"
        _check_nic(nic, mode, where)
        for value, field in ((nic.mac, "mac"), (nic.name, "name")):
            if value is not None and value in seen:
                refuse(f"{value} is used by another NIC of this domain", f"{where}.{field}")
            if value is not None:
                seen.add(value)


def _check_nic(nic: Nic, mode: Mode, where: str) -> None:
    check_mac(nic.mac, f"{where}.mac")
    for index, ip in enumerate(nic.ips):
        check_ip(ip, f"{where}.ips[{index}]")
    if nic.rate is not None:
        # libxlu_vif.c: at most 2^32-1 before the unit; a zero grant would never send a byte.
        number(nic.rate.bytes_per_second, 1, 2**32 - 1, f"{where}.rate")
        number(nic.rate.interval_us, 1, 2**32 - 1, f"{where}.rate")
        if nic.rate.bytes_per_second * nic.rate.interval_us < 1_000_000:
            refuse("the rate grants less than a byte per interval", f"{where}.rate")
        if nic.rate.bytes_per_second * nic.rate.interval_us >= 2**32 * 1_000_000:
            refuse("the rate grants over 4 GiB per interval", f"{where}.rate")
    _check_kind(nic, mode, where)
    _check_script(nic, where)
    if nic.name is not None:
        _check_interface(nic.name, f"{where}.name")
        if _AUTOMATIC_NAME.match(nic.name):
            refuse(f"{nic.name} is in the range that Xen names itself", f"{where}.name")
        if mode == "hvm" and nic.type != "vif" and len(nic.name) > 11:
            refuse("has over 11 characters; its emulated twin adds -emu", f"{where}.name")


def _check_kind(nic: Nic, mode: Mode, where: str) -> None:
    if nic.type is not None:
        choice(nic.type, get_args(NicType), f"{where}.type")
        if nic.type == "ioemu" and mode != "hvm":
            refuse(f"ioemu is an emulated card; {mode} has none", f"{where}.type", "leave it out")
    if nic.model is None:
        return
    one_line(nic.model, f"{where}.model")
    if mode != "hvm" or nic.type == "vif":
        refuse("a model belongs to an emulated card", f"{where}.model", "leave it out")
    if nic.model in ("netfront", "vif"):
        refuse(
            f"{nic.model} is no emulated card; xl would hand it to QEMU",
            f"{where}.model",
            "write type: vif for a PV NIC without a twin",
        )
    if _MODEL.fullmatch(nic.model) is None:
        refuse(f"{nic.model!r} is not a card", f"{where}.model", "e1000, rtl8139, virtio-net ...")


def _check_script(nic: Nic, where: str) -> None:
    script = nic.script or "vif-bridge"
    one_line(script, f"{where}.script")
    if len(script) > 255 or _SCRIPT.fullmatch(script) is None:
        refuse(f"{script!r} is not a script's name or absolute path", f"{where}.script")
    if "/" in script and not script.startswith("/"):
        refuse(f"{script!r} is neither a bare name nor an absolute path", f"{where}.script")
    base = script.rsplit("/", 1)[-1]
    if nic.bridge is not None:
        _check_bridge(nic.bridge, base, f"{where}.bridge")
        if base in ROUTED_SCRIPTS:
            refuse(f"{base} uses no bridge", f"{where}.bridge", "leave it out")
    elif base in BRIDGE_SCRIPTS:
        refuse(f"{base} needs a bridge", f"{where}.bridge", "as in xenbr0")
    if base == "vif-route" and not nic.ips:
        refuse("vif-route needs the guest's ip", f"{where}.ips")
    if base == "vif-nat":
        _check_nat(nic.ips, f"{where}.ips")
    if nic.gatewaydev is not None:
        _check_interface(nic.gatewaydev, f"{where}.gatewaydev")
        if base in (*BRIDGE_SCRIPTS, "vif-nat"):
            refuse(f"{base} uses no gatewaydev", f"{where}.gatewaydev", "vif-route does")


def _check_nat(ips: tuple[str, ...], where: str) -> None:
    if len(ips) > 1:
        refuse("vif-nat takes one ip", where)
    for ip in ips:
        if ":" in ip or int(ip.rsplit(".", 1)[1]) > 127:
            refuse(
                f"vif-nat takes an IPv4 address that ends in 0 to 127, not {ip}",
                where,
                "it gives dom0 the same address plus 127",
            )


def check_mac(mac: str, where: str = "mac") -> None:
    """A unicast MAC in lower case with colons, not all zeros; SpecError."""
    one_line(mac, where)
    if _MAC.fullmatch(mac) is None:
        refuse(f"{mac!r} is not a MAC in lower case with colons", where, "as in 00:16:3e:10:20:30")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        refuse(f"{mac} is not the address of one card", where, "00:16:3e:xx:xx:xx is Xen's range")


def check_ip(ip: str, where: str) -> None:
    """An IPv4 or IPv6 address in its shortest spelling, without prefix length or zone."""
    one_line(ip, where)
    try:
        canonical = str(ipaddress.ip_address(ip))
    except ValueError:
        refuse(f"{ip!r} is not an IP address", where)
    if canonical != ip or "%" in ip:
        refuse(f"{ip!r} is not how that address is written", where, f"write {canonical}")


def _check_interface(name: str, where: str) -> None:
    one_line(name, where)
    if _INTERFACE.fullmatch(name) is None:
        refuse(f"{name!r} is not a network interface's name", where, "at most 15 of A-Za-z0-9_.-")


def _check_bridge(bridge: str, script: str, where: str) -> None:
    if script != "vif-openvswitch":
        _check_interface(bridge, where)
        return
    one_line(bridge, where)
    match = _OVS_BRIDGE.fullmatch(bridge)
    if match is None:
        refuse(f"{bridge!r} is not NAME[.TAG][:TRUNK...]", where)
    for tag in re.split(r"[.:]", bridge)[1:]:
        number(int(tag), 0, 4094, where)
