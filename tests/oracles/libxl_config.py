"""What xl and libvirt ask libxl for, leaf by leaf, so that the two can be compared in every field.

Both are libxl_domain_config as JSON, which leaves out what libxl is to choose. That is written in
here (``libxl__domain_build_info_setdefault`` and its like in ``tools/libs/light`` of Xen 4.17), and
what the two never say alike is left out, each with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oracles.xl_reader import Json

from imagekit.domain.model import Domain
from imagekit.domain.vdev import parse_vdev

Leaves = dict[str, Any]

DIFFERENT = {
    "b_info/shadow_memkb": "libvirt asks libxl for the number that libxl itself would take",
    "b_info/claim_mode": "xl.conf's claim_mode; libvirt leaves Xen to find memory as it builds",
    "b_info/numa_placement": "libxl places no domain on nodes whose CPUs are given",
    "c_info/run_hotplug_scripts": "xl.conf's; libxl takes them unless it is told not to",
    "on_soft_reset": "libvirt has no word for it, and a kexec in the guest ends the domain",
    "disks/removable": "libvirt says so of every disk; xl of CD-ROMs alone",
    "nics/rate_bytes_per_interval": "libvirt counts in KiB/s; assert_same_rates has the bounds",
    "vnc/findunused": "libvirt looks for a free port itself and names it",
    "vnc/display": "the port that libvirt found, where the domain names none",
}
"""Leaves that are not compared, and why they may differ."""

_HVM = "b_info/type.hvm"
_DEFAULTS = {
    f"{_HVM}/vga/kind": "cirrus",
    f"{_HVM}/nographic": "False",
    f"{_HVM}/sdl/enable": "False",
    f"{_HVM}/pae": "True",
    "b_info/acpi": "True",
    "b_info/apic": "True",
    "b_info/video_memkb": 8192,
}
"""What libxl takes for an HVM guest where the config is silent."""

_OLD_PLACES = ("bootloader", "bootloader_args", "kernel", "ramdisk", "cmdline")
"""Fields that were a PV guest's own, where libvirt still has them, and are every guest's now."""


def leaves(config: Json, domain: Domain) -> Leaves:
    """Each field of ``config`` that is compared, by its path; ``domain`` is what it is of."""
    config = {**config, "disks": _disks(config, domain), "nics": _nics(config, domain)}
    screen_apart = domain.mode == "hvm"
    found: Leaves = dict(_DEFAULTS) if screen_apart else {}
    for path, value in _walk(config):
        if path.startswith(("vfbs/", "vkbs/")) and screen_apart:
            continue  # libvirt gives HVM a PV framebuffer beside the card, with the same settings
        head, _, last = path.rpartition("/")
        if head == "b_info/type.pv" and last in _OLD_PLACES:
            path = f"b_info/{last}"
        if not _left_out(path, domain):
            found[path] = value
    if domain.mode == "hvm" and "b_info/kernel" in found:
        found.pop(f"{_HVM}/boot", None)  # nothing is booted from a disk
    pins = found.get("b_info/vcpu_hard_affinity")
    if pins:
        # libvirt pins those that the domain starts with.
        found["b_info/vcpu_hard_affinity"] = pins[: domain.vcpus]
    return found


def _left_out(path: str, domain: Domain) -> bool:
    words = [word for word in path.split("/") if not word.isdigit()]
    name = "/".join(words)
    if words[-2:-1] == ["vnc"]:
        automatic = domain.graphics is None or domain.graphics.display is None
        return automatic and f"vnc/{words[-1]}" in DIFFERENT
    if words[0] in ("vfbs", "vkbs") and words[-1] == "devid":
        return True  # the first of its kind, said or not
    if name.endswith("sdl/enable") and words[0] == "vfbs":
        return True  # no, said or not
    return name in DIFFERENT


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{path}/{key}".removeprefix("/"))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _walk(inner, f"{path}/{number}")
    else:
        yield path, value


def _disks(config: Json, domain: Domain) -> list[Json]:
    found = [{"backend": _backend(disk), **disk} for disk in config.get("disks", [])]
    if domain.mode == "hvm":
        # A disk's place in the machine is its vdev; libvirt has those of one bus together.
        found.sort(key=lambda disk: parse_vdev(disk["vdev"]).index)
    return found


def _backend(disk: Json) -> str:
    """phy for what is raw, else QEMU (libxl_device.c); an empty drive is QEMU's."""
    return "phy" if disk["format"] == "raw" else "qdisk"


def _nics(config: Json, domain: Domain) -> list[Json]:
    kind = "vif_ioemu" if domain.mode == "hvm" else "vif"
    found = [{"nictype": kind, "script": "vif-bridge", **nic} for nic in config.get("nics", [])]
    for nic in found:
        if nic.get("model") == "netfront":
            del nic["model"]  # how libvirt says that there is no emulated card
    return found


def assert_same_rates(one: Json, other: Json) -> None:
    """NICs of both have the same rate, to 1 KiB/s, which is the least that libvirt can say."""
    for a, b in zip(one.get("nics", []), other.get("nics", []), strict=True):
        assert abs(_per_second(a) - _per_second(b)) <= 1044, (a, b)


def _per_second(nic: Json) -> float:
    granted, interval = nic.get("rate_bytes_per_interval", 0), nic.get("rate_interval_usecs", 0)
    return granted * 1_000_000 / interval if interval else 0.0
