"""What an answers template may use: the spec, worked out into what installers ask for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from imagekit.errors import SpecError
from imagekit.spec.model import Spec, StaticNetwork

MEGABYTE = 10**6
MIB = 1 << 20


@dataclass(frozen=True)
class Static:
    """A fixed IPv4 or IPv6 address as installers ask for it."""

    address: str
    netmask: str
    prefix: int
    gateway: str
    dns: tuple[str, ...]
    version: int

    @property
    def off_link(self) -> bool:
        """Whether the gateway is outside the address's network, and on the link all the same."""
        if not self.gateway:
            return False
        place = ipaddress.ip_address(self.gateway)
        network = ipaddress.ip_interface(f"{self.address}/{self.prefix}").network
        return place not in network and not place.is_link_local


@dataclass(frozen=True)
class Mirror:
    """An archive's URL in pieces."""

    protocol: str
    host: str
    directory: str
    url: str


@dataclass(frozen=True)
class Volume:
    """A partition or logical volume: sizes in bytes, ``mount`` "" for swap."""

    name: str
    mount: str
    size: int
    filesystem: str
    grow: bool = False
    logical: bool = False

    @property
    def megabytes(self) -> int:
        """Size in MB of 10^6 bytes, rounded up, as partman counts."""
        return -(-self.size // MEGABYTE)

    @property
    def mebibytes(self) -> int:
        """Size in MiB, as kickstart counts."""
        return self.size // MIB


@dataclass(frozen=True)
class InstallerRelease:
    """The installer's release: ``name`` as pykickstart spells it (RHEL9, F40) or a suite."""

    name: str
    family: str
    major: int


@dataclass(frozen=True)
class Context:
    """The variables of a template; ``hashes`` are crypt hashes by account name."""

    spec: Spec
    target: InstallerRelease
    packages: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    mirror: Mirror | None = None
    mac: str = ""
    modules: tuple[str, ...] = ("xen-blkfront", "xen-netfront")

    def variables(self) -> dict[str, object]:
        """The names a template sees."""
        spec = self.spec
        static = static_network(spec)
        if self.target.name == "RHEL5" and static is not None and static.version == 6:
            raise SpecError("RHEL 5's kickstart has no fixed IPv6 address", where="nics.0.network")
        return {
            "spec": spec,
            "hostname": spec.hostname,
            "domain": spec.identity.domain or "",
            "target": self.target,
            "packages": self.packages,
            "hashes": dict(self.hashes),
            "mirror": self.mirror,
            "proxy": _plain_proxy(spec.os.proxy),
            "network": spec.nics[0].network if spec.nics else "none",
            "static": static,
            "mac": self.mac,
            "volumes": volumes(spec),
            "console": "hvc0",
            "modules": self.modules,
            "cmdline": spec.boot.cmdline,
            # The installer tells the boot server that it is done (imagekit.done=URL of its kernel).
            "flip": spec.install.method == "netboot",
            "firmware": getattr(spec.install, "firmware", "bios"),
        }


def static_network(spec: Spec) -> Static | None:
    """The first NIC's first fixed address, None with DHCP."""
    network = spec.nics[0].network if spec.nics else "none"
    if not isinstance(network, StaticNetwork):
        return None
    interface = ipaddress.ip_interface(network.addresses[0])
    gateways = [g for g in network.gateways if ipaddress.ip_address(g).version == interface.version]
    return Static(
        str(interface.ip),
        str(interface.netmask),
        interface.network.prefixlen,
        gateways[0] if gateways else "",
        tuple(network.dns),
        interface.version,
    )


def volumes(spec: Spec) -> list[Volume]:
    """Partitions and volumes of the spec's disk, the root last and growing."""
    disk = spec.disk
    found = []
    if disk.boot_bytes:
        found.append(Volume("boot", "/boot", disk.boot_bytes, "ext4"))
    for index, part in enumerate(disk.partitions):
        found.append(Volume(f"data{index}", part.mount, part.size, part.filesystem))
    if disk.swap:
        found.append(Volume("swap", "", disk.swap, "swap", logical=disk.lvm))
    used = sum(v.size for v in found)
    # Partition tables and LVM's metadata take a few MiB of what is left.
    rest = max(disk.size - used - 32 * MIB, 64 * MIB)
    found.append(Volume("root", "/", rest, disk.filesystem, grow=True, logical=disk.lvm))
    return found


def mirror_of(url: str | None) -> Mirror | None:
    """``url`` in pieces, None without one. Raises SpecError for what installers cannot use."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError("an installer needs an http or https mirror", where="os.mirror")
    if "@" in parts.netloc:
        raise SpecError(
            "a mirror with a password would be readable in the guest",
            where="os.mirror",
            hint="name a mirror that the installer may use without one",
        )
    port = f":{parts.port}" if parts.port else ""
    return Mirror(parts.scheme, f"{parts.hostname}{port}", parts.path.rstrip("/") or "/", url)


def _plain_proxy(url: str | None) -> str:
    """``url`` as installers get it, "" without one; raises SpecError for one with a password."""
    if url and "@" in url:
        raise SpecError(
            "a proxy with a password would be readable in the answers and in the guest",
            where="os.proxy",
            hint="name a proxy that the installer may use without one, or a mirror that needs none",
        )
    return url or ""


def target_of(answers: str, release: str | None, suite: str, distribution: str) -> InstallerRelease:
    """The release the answers are for. Kickstart: RHEL5 to RHEL10, Fedora as F40."""
    name = release or suite
    if answers != "kickstart":
        return InstallerRelease(name, distribution, 0)
    match = re.fullmatch(r"(?:(RHEL|EL|CentOS|F|Fedora|FC)-?)?(\d+)(?:\.\d+)?", name, re.IGNORECASE)
    if match is None:
        raise SpecError(f"{name!r} names no kickstart release", hint="for example RHEL9 or F40")
    prefix = (match[1] or ("F" if distribution == "fedora" else "RHEL")).upper()
    family = "fedora" if prefix.startswith("F") else "rhel"
    number = int(match[2])
    spelled = "RHEL" if family == "rhel" else ("FC" if number < 7 else "F")
    return InstallerRelease(f"{spelled}{number}", family, number)
