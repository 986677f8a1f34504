"""libvirt domain XML as its Xen driver turns it into libxl's config, in the shape of ``xl_model``.

Follows ``src/libxl/libxl_conf.c`` of libvirt: what that ignores is ignored here, and what it
refuses is an assertion. The schema is libvirt's own (Debian package libvirt0).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree
from oracles.xm_reader import cpu_numbers

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
MIB = {"KiB": 1, "MiB": 1024}
BACKENDS = {"phy": "phy", "file": "qdisk", "qemu": "qdisk", "tap": "tap", "tap2": "tap"}
FORMATS = {
    "phy": ("raw",),
    "file": ("raw",),
    "qemu": ("raw", "qcow", "qcow2", "qed", "vhd"),
    "tap": ("raw", "vhd"),
}
LETTERS = {"hd": "c", "cdrom": "d", "network": "n", "fd": "a"}


@cache
def _schema() -> Any:
    return etree.RelaxNG(etree.parse(str(SCHEMA)))


def schema_errors(text: str) -> list[str]:
    """What libvirt's schema dislikes."""
    schema = _schema()
    schema.validate(etree.fromstring(text))
    return [str(error) for error in schema.error_log]


def from_libvirt(text: str) -> dict[str, Any]:
    """The machine that the driver would ask libxl for."""
    root = etree.fromstring(text)
    system = root.find("os")
    kind, machine = system.findtext("type"), system.find("type").get("machine")
    mode = {
        ("linux", "xenpv"): "pv",
        ("xen", "xenpv"): "pv",
        ("xenpvh", "xenpvh"): "pvh",
        ("hvm", "xenfv"): "hvm",
    }[kind, machine]
    vcpu = root.find("vcpu")
    args = root.findtext("bootloader_args") or ""
    loader = system.find("loader")
    hvm = mode == "hvm"
    bootloader, kernel = root.findtext("bootloader"), system.findtext("kernel")
    assert hvm or bootloader or kernel, "the driver would take pygrub, or refuse PVH"
    direct = hvm and kernel is not None
    order = "".join(LETTERS[b.get("dev")] for b in system.findall("boot"))
    if hvm:
        assert {f.tag for f in root.find("features")} == {"acpi", "apic", "pae"}
        assert root.find("devices/video/model").get("type") == "cirrus", "no graphics card"
    return {
        "name": root.findtext("name"),
        "uuid": root.findtext("uuid"),
        "mode": mode,
        "memory_kib": _kib(root.find("currentMemory")),
        "maxmem_kib": _kib(root.find("memory")),
        "vcpus": int(vcpu.get("current", vcpu.text)),
        "maxvcpus": int(vcpu.text),
        "kernel": kernel,
        "initrd": system.findtext("initrd"),
        "cmdline": system.findtext("cmdline") or "",
        "bootloader": bootloader,
        # g_strsplit() with a separator of three characters: one element, whatever is in it.
        "bootloader_args": args.split(" \t\n") if args else [],
        "firmware": "ovmf" if loader is not None and loader.get("type") == "pflash" else None,
        "boot_order": order if hvm and not direct else None,
        "weight": _weight(root),
        "cap": None,
        "pins": _pins(root, int(vcpu.text)),
        "disks": [_disk(d) for d in root.findall("devices/disk")],
        "nics": [_nic(n, hvm) for n in root.findall("devices/interface")],
        "serial": root.find("devices/serial").get("type")
        if root.find("devices/serial") is not None
        else None,
        "vnc": _vnc(root.find("devices/graphics")),
        "on_poweroff": root.findtext("on_poweroff"),
        "on_reboot": root.findtext("on_reboot"),
        "on_crash": root.findtext("on_crash"),
    }


def _weight(root: Any) -> int | None:
    shares = root.findtext("cputune/shares")
    assert shares is None or 2 <= int(shares) <= 262144, "libvirt refuses it"
    return None if shares is None else int(shares)


def _pins(root: Any, maxvcpus: int) -> list[int] | None:
    """The CPUs that all vCPUs are pinned to; <vcpu cpuset=> is nothing to the driver."""
    pins = root.findall("cputune/vcpupin")
    if not pins:
        return None
    assert [int(pin.get("vcpu")) for pin in pins] == list(range(maxvcpus))
    (cpus,) = {pin.get("cpuset") for pin in pins}
    return cpu_numbers(cpus)


def _kib(element: Any) -> int:
    return int(element.text) * MIB[element.get("unit")]


def _disk(disk: Any) -> dict[str, Any]:
    driver, source = disk.find("driver"), disk.find("source")
    name, form = driver.get("name"), driver.get("type")
    assert form in FORMATS.get(name, ("raw",)), "the driver refuses it, or takes it for raw"
    target = None
    if source is not None:
        target = source.get({"file": "file", "block": "dev"}[disk.get("type")])
    cdrom = disk.get("device") == "cdrom"
    assert target or cdrom
    return {
        "target": target,
        "format": form if target else "empty",
        "vdev": disk.find("target").get("dev"),
        "backend": BACKENDS[name] if name else None,
        "readonly": disk.find("readonly") is not None,
        "cdrom": cdrom,
    }


def _nic(nic: Any, hvm: bool) -> dict[str, Any]:
    kind = nic.get("type")
    assert kind in ("bridge", "ethernet")
    card = nic.find("model").get("type") if nic.find("model") is not None else None
    assert hvm or card in (None, "netfront"), "the driver refuses it"
    script = nic.find("script").get("path") if nic.find("script") is not None else None
    bridge: Any = nic.find("source").get("bridge") if kind == "bridge" else None
    port = nic.find("virtualport")
    if port is not None and port.get("type") == "openvswitch":
        script = script or "vif-openvswitch"
        vlan = nic.find("vlan")
        if vlan is not None:
            tags = [int(tag.get("id")) for tag in vlan.findall("tag")]
            trunk = vlan.get("trunk") == "yes"
            bridge += "".join(f":{tag}" for tag in tags) if trunk else f".{tags[0]}"
    rate = (0, 0)
    if nic.find("bandwidth/outbound") is not None:
        rate = (int(nic.find("bandwidth/outbound").get("average")) * 1024 // 20, 50_000)
    return {
        "mac": nic.find("mac").get("address"),
        "bridge": bridge,
        "ip": " ".join(ip.get("address") for ip in nic.findall("ip")) or None,
        "script": script,
        "model": None if card == "netfront" else card,
        "type": ("vif" if card == "netfront" else "ioemu") if hvm else "vif",
        "rate": rate,
        "gatewaydev": None,
        "name": nic.find("target").get("dev") if nic.find("target") is not None else None,
    }


def _vnc(screen: Any) -> dict[str, Any] | None:
    if screen is None:
        return None
    automatic = screen.get("autoport") == "yes"
    assert automatic == (screen.get("port") == "-1")
    return {
        "listen": screen.get("listen"),
        "display": None if automatic else int(screen.get("port")) - 5900,
        "password": screen.get("passwd"),
        "keymap": screen.get("keymap"),
    }
