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

MAX_FILES = 50
_NAMED = r"(?:eth\d+|en(?:s|p|o|x|X)[0-9a-fA-F][0-9a-fs]*)"
_IFUPDOWN = re.compile(rf"(?m)^\s*(?:iface|auto|allow-hotplug)\s+({_NAMED})\b")
_NETPLAN = re.compile(rf"(?m)^\s+[\"']?({_NAMED})[\"']?:\s*$")
_KEYFILE = re.compile(rf"(?m)^\s*interface-name\s*=\s*({_NAMED})\s*$")
_NETWORKD = re.compile(rf"(?m)^\s*Name\s*=\s*({_NAMED})\s*$")
_IFCFG = re.compile(r"ifcfg-(" + _NAMED + ")")
_LINK_NAME = re.compile(rf"(?m)^\s*Name\s*=\s*({_NAMED})\s*$")
_LINKS = "/etc/systemd/network"
_UDEV = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd")
# Before 99-default.link, and before what names all interfaces of a kind.
_LINK = """\
# Written by imagekit: {path} configures {name}.
[Match]
Path=xen-vif-{index}

[Link]
Name={name}
"""


def find(subject: Subject) -> Iterator[Finding]:
    """Files that configure an interface by a name that changes with the mode."""
    fixable = any(subject.files.stat(path) is not None for path in _UDEV)
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
    """Give the first VIF the first of the configured names, and so on (systemd.link(5)).

    Path is what udev's path_id says of a VIF, whatever its MAC address: clones have others.
    """
    found = _unknown(subject)
    taken = len(_linked(subject.files))
    names = sorted({name for _path, name in found}, key=_by_number)
    for index, name in enumerate(names, taken):
        path = next(path for path, other in found if other == name)
        text = _LINK.format(path=path, index=index, name=name)
        subject.files.write(f"{_LINKS}/10-imagekit-{name}.link", text.encode(), mode=0o644)


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
    names = [name for name in files.names(_LINKS) if name.endswith(".link")]
    texts = [files.peek(f"{_LINKS}/{name}") for name in names[:MAX_FILES]]
    return {name for text in texts for name in _LINK_NAME.findall(text)}


def _by_number(name: str) -> list[tuple[int, str]]:
    """ens4 before ens10: the order in which their cards are plugged in."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


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
    keyfiles = "/etc/NetworkManager/system-connections"
    for file in files.names(keyfiles)[:MAX_FILES]:
        for name in _KEYFILE.findall(files.peek(f"{keyfiles}/{file}")):
            yield f"{keyfiles}/{file}", name
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
