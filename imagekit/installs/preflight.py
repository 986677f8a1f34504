"""What can be known to fail before the first stage runs, and what the user should think about.

A spec is checked when it is planned, the host when something has to be built.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Collection, Iterator, Set
from pathlib import Path

from imagekit.errors import ExistsError, HostError, SpecError
from imagekit.guest.from_spec import require_sources
from imagekit.guest.sshkeys import parse_key
from imagekit.host import tools
from imagekit.host.distro_info import distribution_of, is_time_zone, suites_of, time_zones
from imagekit.spec.install import Debootstrap, DiskimageBuilder, Iso, Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec, StaticNetwork
from imagekit.spec.nearest import did_you_mean
from imagekit.spec.shape import Loc
from imagekit.spec.values import format_size

LEAST_MEMORY_MIB = 64
"""Less has no kernel of a distribution: it and its initrd have about 90 MiB when unpacked."""
USUAL_MEMORY_MIB = 192
LEAST_TREE_BYTES = 1 << 30
"""What the stages of a minimal guest keep: its packages, its tree as tar, and a sparse disk."""
LEAST_OUT_BYTES = 128 << 20
SSH_SERVERS = {"openssh-server", "dropbear", "dropbear-bin", "tinysshd", "cloud-init", "ssh"}
LOGIN_FILES = ("/authorized_keys", "/etc/shadow", "/etc/passwd", "/etc/cloud/cloud.cfg")


def check_spec(file: SpecFile) -> None:
    """Raise SpecError for what no guest of ``file`` can be right with."""
    for check in (_suite, _time_zone, _keys, _memory, _networks, require_sources):
        check(file)


def warnings(file: SpecFile) -> list[str]:
    """What is possible and probably not meant, each with its place in the spec."""
    return [*_login(file), *_odd_gateways(file), *_little_memory(file)]


def check_host(out: Path, store: Path, spec: Spec, stages: Set[str]) -> None:
    """Raise HostError if ``stages`` of ``spec`` cannot run here, for want of programs or room.

    ``store`` is where their results are kept, ``out`` where the build goes.
    """
    if not stages:
        return
    missing = [name for name in sorted(_programs(spec, stages)) if tools.find(name) is None]
    if missing:
        packages = sorted({tools.PACKAGES[name] for name in missing})
        raise HostError(
            f"this build needs programs that are not on this host: {', '.join(missing)}",
            hint=f"apt-get install {' '.join(packages)}",
        )
    if stages & {"rootfs", "install", "disk-image-create"}:
        _require_room(store, LEAST_TREE_BYTES, "imagekit cache prune, or IMAGEKIT_CACHE elsewhere")
    _require_room(out, LEAST_OUT_BYTES, "make room there, or choose another directory with -o")


def check_writable(directory: Path, hint: str) -> None:
    """Raise HostError unless ``directory`` can be written to, or be made.

    Raises ExistsError for a file in its place.
    """
    there = _nearest_there(directory)
    if not there.is_dir():
        raise ExistsError(f"{there} exists and is not a directory", hint=hint)
    if os.access(there, os.W_OK | os.X_OK):
        return
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    reason = "is on a read-only file system" if read_only else "may not be written to by this user"
    raise HostError(reason, where=str(there), hint=hint)


def _nearest_there(path: Path) -> Path:
    path = path.absolute()
    return next(above for above in (path, *path.parents) if above.exists())


def _require_room(path: Path, least: int, hint: str) -> None:
    there = _nearest_there(path)
    free = shutil.disk_usage(there).free
    if free < least:
        raise HostError(
            f"has {free >> 20} MiB free, and a build needs at least {format_size(least)}",
            where=str(there),
            hint=hint,
        )


def _programs(spec: Spec, stages: Collection[str]) -> Iterator[str]:
    install = spec.install
    if "rootfs" in stages:
        yield from (install.tool if isinstance(install, Debootstrap) else "mmdebstrap", "gpgv")
        if spec.os.arch == "i386":
            yield "arch-test"
    if "image" in stages and spec.disk.table != "none":
        yield "sfdisk"
    for filesystem in (spec.disk.filesystem, *(p.filesystem for p in spec.disk.partitions)):
        if "image" in stages:
            yield "mke2fs" if filesystem == "ext4" else f"mkfs.{filesystem}"
    if "qcow2" in stages:
        yield "qemu-img"
    if "install" in stages:
        yield from ("qemu-system-x86_64", "qemu-img")
    if "remaster" in stages:
        yield from ("xorriso", "cpio")


def _suite(file: SpecFile) -> None:
    os_ = file.spec.os
    owner = distribution_of(os_.suite)
    if owner is None or owner == os_.distribution or os_.suite in suites_of(os_.distribution):
        return
    raise SpecError(
        f"{os_.suite} is a suite of {owner}, and os.distribution is {os_.distribution}",
        where=file.where("os", "suite"),
        hint=f"distribution: {owner}, or a suite of {os_.distribution}",
    )


def _time_zone(file: SpecFile) -> None:
    name = file.spec.identity.timezone
    if not is_time_zone(name):
        raise SpecError(
            f"there is no time zone {name!r}{did_you_mean(name, sorted(time_zones()))}",
            where=file.where("identity", "timezone"),
            hint="timedatectl list-timezones lists all",
        )


def _keys(file: SpecFile) -> None:
    identity = file.spec.identity
    lists: list[tuple[Loc, list[str]]] = [(("identity", "ssh_keys"), identity.ssh_keys)]
    for index, user in enumerate(identity.users):
        lists.append((("identity", "users", index, "ssh_keys"), user.ssh_keys))
    for loc, keys in lists:
        for index, key in enumerate(keys):
            if parse_key(key) is None:
                raise SpecError(
                    f"{_shortened(key)!r} is a placeholder or cut off, not a public key",
                    where=file.where(*loc, index),
                    hint="use the line of ~/.ssh/id_ed25519.pub; ssh-keygen -t ed25519 makes one",
                )


def _shortened(key: str) -> str:
    return key if len(key) <= 40 else f"{key[:40]}..."


def _memory(file: SpecFile) -> None:
    spec = file.spec
    kernel = getattr(spec.install, "kernel", None) or ""
    if spec.memory < LEAST_MEMORY_MIB and "/" not in kernel:
        raise SpecError(
            f"{spec.memory} MiB are too little for {spec.os.distribution}: its kernel and initrd "
            "do not fit",
            where=file.where("memory"),
            hint=f"at least {LEAST_MEMORY_MIB}MiB, usually {USUAL_MEMORY_MIB}MiB and more",
        )


def _little_memory(file: SpecFile) -> Iterator[str]:
    memory = file.spec.memory
    if LEAST_MEMORY_MIB <= memory < USUAL_MEMORY_MIB:
        yield (
            f"{file.where('memory')}: {memory} MiB are little: a guest whose initrd has not room "
            "panics at boot; imagekit prove tells"
        )


def _static(file: SpecFile) -> Iterator[tuple[int, StaticNetwork]]:
    for index, nic in enumerate(file.spec.nics):
        if isinstance(nic.network, StaticNetwork):
            yield index, nic.network


def _networks(file: SpecFile) -> None:
    seen: dict[str, int] = {}
    for index, network in _static(file):
        for place, text in enumerate(network.addresses):
            address = str(ipaddress.ip_interface(text).ip)
            where = file.where("nics", index, "network", "addresses", place)
            if address in seen:
                raise SpecError(
                    f"{address} is also an address of nics[{seen[address]}]", where=where
                )
            seen[address] = index
        for place, gateway in enumerate(network.gateways):
            if gateway in seen:
                raise SpecError(
                    f"{gateway} is the guest's own address, and cannot be its gateway",
                    where=file.where("nics", index, "network", "gateways", place),
                    hint="name the router's address",
                )


def _odd_gateways(file: SpecFile) -> Iterator[str]:
    for index, network in _static(file):
        nets = [ipaddress.ip_interface(text).network for text in network.addresses]
        for place, text in enumerate(network.gateways):
            gateway = ipaddress.ip_address(text)
            near = [net for net in nets if net.version == gateway.version]
            alone = all(net.num_addresses == 1 for net in near)
            if gateway.is_link_local or any(gateway in net for net in near) or (near and alone):
                continue
            said = ", ".join(map(str, near)) or f"no IPv{gateway.version} network of the guest"
            where = file.where("nics", index, "network", "gateways", place)
            yield (
                f"{where}: the gateway {text} is outside {said}; the guest takes it to be on the "
                "link, which is wrong where it is a slip"
            )


def _login(file: SpecFile) -> Iterator[str]:
    spec, identity = file.spec, file.spec.identity
    packages = set(getattr(spec.install, "packages", ()))
    if _may_be_set_up_otherwise(spec, packages):
        return
    keys = identity.ssh_keys or any(user.ssh_keys for user in identity.users)
    passwords = identity.root_password or any(user.password for user in identity.users)
    if not keys and not passwords:
        yield (
            f"{file.where('identity')}: nobody can log in to this guest: it has no password and no "
            "SSH key; set identity.ssh_keys (and install openssh-server), or identity.root_password"
        )
    elif keys and not passwords and not packages & SSH_SERVERS and _is_tree(spec):
        yield (
            f"{file.where('identity')}: nobody can log in to this guest: it has SSH keys and no "
            "SSH server; add openssh-server to install.packages"
        )


def _is_tree(spec: Spec) -> bool:
    return isinstance(spec.install, Debootstrap | DiskimageBuilder)


def _may_be_set_up_otherwise(spec: Spec, packages: Collection[str]) -> bool:
    install = spec.install
    own = bool(getattr(install, "elements", ())) or bool(getattr(install, "template", None))
    emitted = isinstance(install, Iso | Netboot) and install.on_host
    put = any(item.target.endswith(LOGIN_FILES) for item in spec.files)
    return own or emitted or put or bool(spec.scripts) or "cloud-init" in packages
