"""Network configurations that name an interface.

The same VIF is eth0, enX0 (systemd.net-naming-scheme(7), v253 and later), or for an emulated card
ens3, the name that an installer saw and wrote down. What stays the same in every mode and release
is its MAC address, and for the clones of an image its place among the VIFs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagekit.guest.files import GuestFiles
from imagekit.guest.findings import Finding, Subject
from imagekit.guest.network.keyfile import DIRECTORY as KEYFILES
from imagekit.guest.network.netplan import DIRECTORY as NETPLAN
from imagekit.guest.network.networkd import DIRECTORY as NETWORKD
from imagekit.guest.network.setting import MAX_FILES, UDEV, by_number, write_link
from imagekit.guest.network.setting import NAMED as _NAMED

_IFUPDOWN = re.compile(rf"(?m)^\s*(?:iface|auto|allow-hotplug)\s+({_NAMED})\b")
_NETPLAN = re.compile(rf"(?m)^\s+[\"']?({_NAMED})[\"']?:\s*$")
_KEYFILE = re.compile(rf"(?m)^\s*interface-name\s*=\s*({_NAMED})\s*$")
_NAME = re.compile(rf"(?m)^\s*Name\s*=\s*({_NAMED})\s*$")
_IFCFG = re.compile(r"ifcfg-(" + _NAMED + ")")


def find(subject: Subject) -> Iterator[Finding]:
    """Files that configure an interface by a name that changes with the mode."""
    fixable = any(subject.files.stat(path) is not None for path in UDEV)
    for path, name in _unknown(subject):
        yield Finding(
            "nic-name",
            "warning",
            "all",
            f"{path} configures {name}",
            "the VIF is called eth0 or enX0 in PV and PVH guests and may be ens3 in HVM: "
            "without that name the guest has no network",
            "give the VIF that name by a .link file, or match it by its MAC address"
            if fixable
            else "match the interface by its MAC address",
            fixable,
        )
    yield from _netfront(subject)


def fix_names(subject: Subject) -> None:
    """Give the first VIF the first of the configured names, and so on; clones have other MACs."""
    taken = len(_linked(subject.files))
    names = sorted({name for _path, name in _unknown(subject)}, key=by_number)
    for index, name in enumerate(names, taken):
        write_link(subject.files, index, name)


FIXES = {"nic-name": fix_names}


def _unknown(subject: Subject) -> list[tuple[str, str]]:
    """Files and the names they configure that no VIF is sure to have."""
    entry = subject.inspection.default_entry or subject.inspection.grub_default
    fixed_names = entry is not None and "net.ifnames=0" in entry.args.split()
    linked = _linked(subject.files)
    return [
        (path, name)
        for path, name in _names(subject)
        if name not in linked and not (fixed_names and re.fullmatch(r"eth\d+", name))
    ]


def _linked(files: GuestFiles) -> set[str]:
    """Names that .link files of the administrator give."""
    names = [name for name in files.names(NETWORKD) if name.endswith(".link")]
    texts = [files.peek(f"{NETWORKD}/{name}") for name in names[:MAX_FILES]]
    return {name for text in texts for name in _NAME.findall(text)}


def _names(subject: Subject) -> Iterator[tuple[str, str]]:
    files = subject.files
    extra = [f"/etc/network/interfaces.d/{n}" for n in files.names("/etc/network/interfaces.d")]
    for path in ["/etc/network/interfaces", *extra[:MAX_FILES]]:
        for name in dict.fromkeys(_IFUPDOWN.findall(files.peek(path))):
            yield path, name
    for file in files.names(NETPLAN)[:MAX_FILES]:
        text = files.peek(f"{NETPLAN}/{file}")
        if file.endswith(".yaml") and "macaddress:" not in text:
            for name in dict.fromkeys(_NETPLAN.findall(text)):
                yield f"{NETPLAN}/{file}", name
    for file in files.names(NETWORKD)[:MAX_FILES]:
        if file.endswith(".network"):
            for name in _NAME.findall(files.peek(f"{NETWORKD}/{file}")):
                yield f"{NETWORKD}/{file}", name
    for file in files.names(KEYFILES)[:MAX_FILES]:
        for name in _KEYFILE.findall(files.peek(f"{KEYFILES}/{file}")):
            yield f"{KEYFILES}/{file}", name
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
