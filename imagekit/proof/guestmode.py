"""Whether a Linux guest is PV, PVH, HVM with PV drivers or plain HVM, and what shows it.

Sources: Linux Documentation/ABI/stable/sysfs-hypervisor-xen and testing/sysfs-hypervisor-xen
(``guest_type`` since 4.13), include/xen/interface/features.h, and the messages of
arch/x86/kernel/paravirt.c and arch/x86/kernel/cpu/hypervisor.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "pv": "PV",
    "pvh": "PVH",
    "pvhvm": "HVM with PV drivers",
    "hvm": "HVM without PV drivers",
    "dom0": "dom0",
    "none": "no Xen guest",
}
MAX_READ = 65536
_Read = Callable[[str], str]
AUTO_TRANSLATED = 1 << 2  # XENFEAT_auto_translated_physmap: set for HVM and PVH, not for PV


@dataclass(frozen=True)
class GuestMode:
    """``kind`` is a key of KINDS; ``evidence`` is what was read, one line each."""

    kind: str
    evidence: tuple[str, ...]


def guest_mode(root: Path = Path("/")) -> GuestMode:
    """The mode of the running system whose /sys and /proc are below ``root``."""
    evidence: list[str] = []

    def read(name: str) -> str:
        try:
            with (root / name).open("rb") as stream:
                text = stream.read(MAX_READ).decode("utf-8", "backslashreplace").strip()
        except OSError:
            return ""
        if text:
            evidence.append(f"/{name}: {text.splitlines()[0][:200]}")
        return text

    if "control_d" in read("proc/xen/capabilities"):
        return GuestMode("dom0", tuple(evidence))
    evidence.clear()
    kind = read("sys/hypervisor/guest_type").lower() if read("sys/hypervisor/type") == "xen" else ""
    if kind not in ("pv", "pvh", "hvm"):
        kind = _without_guest_type(read, xen=any("type: xen" in line for line in evidence))
    if kind == "hvm":
        drivers = _bound_drivers(root)
        evidence += drivers or ["/sys/bus/xen/devices: no vbd or vif has a driver"]
        kind = "pvhvm" if drivers else "hvm"
    return GuestMode(kind, tuple(evidence) or ("/sys/hypervisor/type is not there",))


def _without_guest_type(read: _Read, *, xen: bool) -> str:
    """Kernels before 4.13, and those without any Xen code: features and firmware tell."""
    if xen:
        features = read("sys/hypervisor/properties/features")
        if re.fullmatch(r"[0-9a-fA-F]+", features) and not int(features, 16) & AUTO_TRANSLATED:
            return "pv"
    if read("sys/class/dmi/id/sys_vendor") == "Xen" or "HVM domU" in read(
        "sys/class/dmi/id/product_name"
    ):
        return "hvm"
    return "pvh" if xen else "none"


def _bound_drivers(root: Path) -> list[str]:
    devices = root / "sys/bus/xen/devices"
    found = []
    try:
        names = sorted(entry.name for entry in devices.iterdir())[:256]
    except OSError:
        return []
    for name in names:
        driver = devices / name / "driver"
        if name.startswith(("vbd-", "vif-")) and driver.is_symlink():
            found.append(f"/sys/bus/xen/devices/{name}: driver {driver.readlink().name}")
    return found


_LOG_LINES = (
    (re.compile(r"Booting (?:paravirtualized )?kernel on Xen (PVH|PV|HVM)\b"), 1),
    (re.compile(r"Hypervisor detected: Xen (PVH|PV|HVM)\b"), 1),
    (re.compile(r"Booting (?:paravirtualized )?kernel on (bare hardware|KVM)\b"), 1),
)
_PV_DRIVER = re.compile(r"blkfront: xvd\w+:|vbd vbd-|netfront: Initialising Xen virtual ethernet")


def from_kernel_log(text: str) -> GuestMode | None:
    """The mode that a kernel's own messages tell, or None when they do not."""
    for pattern, group in _LOG_LINES:
        match = pattern.search(text)
        if match is None:
            continue
        kind = {"PV": "pv", "PVH": "pvh", "HVM": "hvm"}.get(match[group], "none")
        lines = [_line(text, match)]
        if kind == "hvm" and (driver := _PV_DRIVER.search(text)):
            kind = "pvhvm"
            lines.append(_line(text, driver))
        return GuestMode(kind, tuple(lines))
    return None


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return text[start : end if end >= 0 else len(text)].strip()[:300]
