"""Network configurations that name an interface.

The same VIF is eth0, enX0 (systemd.net-naming-scheme(7), v253 and later), or for an emulated card
ens3; only its MAC address is the same in every mode and release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.guest.findings import Finding, Subject

MAX_FILES = 50
_NAMED = r"(?:eth\d+|en(?:s|p|o|x|X)[0-9a-fA-F][0-9a-fs]*)"
_IFUPDOWN = re.compile(rf"(?m)^\s*(?:iface|auto|allow-hotplug)\s+({_NAMED})\b")
_NETPLAN = re.compile(rf"(?m)^\s+[\"']?({_NAMED})[\"']?:\s*$")
_NETWORKD = re.compile(rf"(?m)^\s*Name\s*=\s*({_NAMED})\s*$")
_IFCFG = re.compile(r"ifcfg-(" + _NAMED + ")")


def find(subject: Subject) -> Iterator[Finding]:
    """Files that configure an interface by a name that changes with the mode."""
    entry = subject.inspection.default_entry or subject.inspection.grub_default
    fixed_names = entry is not None and "net.ifnames=0" in entry.args.split()
    for path, name in _names(subject):
        if fixed_names and re.fullmatch(r"eth\d+", name):
            continue
        yield Finding(
            "nic-name",
            "warning",
            "all",
            f"{path} configures {name}",
            "the VIF is called eth0 or enX0 in PV and PVH guests and may be ens3 in HVM: "
            "without that name the guest has no network",
            "match the interface by its MAC address (.link, .network, netplan match:)",
        )
    yield from _netfront(subject)


def _names(subject: Subject) -> Iterator[tuple[str, str]]:
    files = subject.files
    extra = [f"/etc/network/interfaces.d/{n}" for n in files.names("/etc/network/interfaces.d")]
    for path in ["/etc/network/interfaces", *extra[:MAX_FILES]]:
        for name in dict.fromkeys(_IFUPDOWN.findall(files.peek(path))):
            yield path, name
    for file in files.names("/etc/netplan")[:MAX_FILES]:
        text = files.peek(f"/etc/netplan/{file}")
        if file.endswith(".yaml") and "macaddress:" not in text:
            for name in dict.fromkeys(_NETPLAN.findall(text)):
                yield f"/etc/netplan/{file}", name
    for file in files.names("/etc/systemd/network")[:MAX_FILES]:
        if file.endswith(".network"):
            for name in _NETWORKD.findall(files.peek(f"/etc/systemd/network/{file}")):
                yield f"/etc/systemd/network/{file}", name
    for file in files.names("/etc/sysconfig/network-scripts")[:MAX_FILES]:
        match = _IFCFG.fullmatch(file)
        path = f"/etc/sysconfig/network-scripts/{file}"
        if match and not re.search(r"(?m)^\s*HWADDR=", files.peek(path)):
            yield path, match[1]


def _netfront(subject: Subject) -> Iterator[Finding]:
    for kernel in subject.inspection.kernels:
        report = kernel.report
        if report is None or report.release is None:
            continue
        if report.config.get("CONFIG_XEN_NETDEV_FRONTEND") in ("y", "m"):
            continue
        built = any("Netfront was built" in line for line in report.pvhvm_evidence)
        if (report.initrd and report.initrd.xen_netfront.state in ("module", "builtin")) or built:
            continue
        yield Finding(
            "no-netfront",
            "warning",
            "all",
            f"nothing shows that {kernel.path} has the driver xen_netfront",
            "PV and PVH guests have no network without it",
            "install a kernel built with CONFIG_XEN_NETDEV_FRONTEND",
        )
