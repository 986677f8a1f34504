"""What a spec puts into the tree: identity, network, fstab, boot menu, accounts, files.

All of it is computed here as a list of operations (plain data, so that it can be digested and
tested) and carried out by ``imagekit.installs.tree_child``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagekit.disk.layout import Layout
from imagekit.errors import SpecError
from imagekit.guest import hostkeys, networkd
from imagekit.guest.vif import Vif
from imagekit.pipeline.stage import digest_file
from imagekit.spec.derived import mac_of
from imagekit.spec.load import SpecFile
from imagekit.spec.model import File, Spec, StaticNetwork, User

Operation = dict[str, Any]
SHIPS = ("../guestfiles",)
GUESTFILES = Path(__file__).parents[1] / "guestfiles"
BAKED_IDENTITY = (
    *("/etc/ssh/ssh_host_*", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed"),
    *("/var/lib/systemd/credential.secret", "/var/lib/dhcp/*.leases", "/var/lib/NetworkManager/*"),
    *("/etc/udev/rules.d/70-persistent-*", "/root/.bash_history", "/etc/hostname"),
    *("/var/cache/debconf/*-old", "/var/cache/apt/*.bin", "/var/lib/apt/lists/*_dists_*"),
    *("/.imagekit-script-*", "/var/log/bootstrap.log", "/etc/.pwd.lock"),
    *("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-"),
)
"""Files that would give every clone of an image the same identity, or tell of its build."""


def check_files(file: SpecFile) -> None:
    """Raise SpecError for files to inject that are not there."""
    for index, item in enumerate(file.spec.files):
        if item.source is not None and not file.resolve(item.source).is_file():
            raise SpecError(
                f"there is no file {file.resolve(item.source)}",
                where=file.where("files", index, "source"),
            )


def digest_of(file: SpecFile, secrets: Mapping[str, str]) -> dict[str, Any]:
    """What the operations depend on, as digests: for the key of the stage."""
    spec = file.spec
    files = [
        [
            *(f.target, f.mode, f.owner, f.content),
            digest_file(file.resolve(f.source)) if f.source else None,
        ]
        for f in spec.files
    ]
    hashes = "".join(f"{k}:{v}\n" for k, v in sorted(secrets.items()))
    return {
        "identity": spec.identity.model_dump(mode="json"),
        "hostname": spec.hostname,
        "nics": [[mac_of(spec, i), n.model_dump(mode="json")] for i, n in enumerate(spec.nics)],
        "network": network(spec),
        "files": files,
        "secrets": hashlib.sha256(hashes.encode()).hexdigest(),
        "host keys": hostkeys.UNIT,
        "guest files": {p.name: digest_file(p) for p in sorted(GUESTFILES.iterdir())},
    }


def operations(
    file: SpecFile, layout: Layout, cmdline: str, secrets: Mapping[str, str]
) -> list[Operation]:
    """Everything to do in the tree, in order; user files come last and win.

    ``secrets`` are the crypt hashes by account name.
    """
    spec = file.spec
    ops: list[Operation] = [{"op": "remove", "path": p} for p in BAKED_IDENTITY]
    ops += _identity(spec)
    ops += network(spec)
    ops += [write("/etc/fstab", fstab(spec, layout))]
    ops += _boot_support(spec, layout, cmdline)
    ops += _accounts(file, secrets)
    for item in spec.files:
        ops.append(_file(file, item))
    return ops


def write(path: str, text: str | bytes, mode: int = 0o644, **more: Any) -> Operation:
    """An operation that writes ``text`` to ``path``."""
    data = text.encode() if isinstance(text, str) else text
    return {
        "op": "write",
        "path": path,
        "data": base64.b64encode(data).decode(),
        "mode": mode,
        **more,
    }


def _identity(spec: Spec) -> list[Operation]:
    host, domain = spec.hostname, spec.identity.domain
    names = f"{host}.{domain} {host}" if domain else host
    hosts = (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
    return [
        write("/etc/hostname", f"{host}\n"),
        write("/etc/hosts", hosts),
        # Empty, not "uninitialized": the first boot makes an id without resetting all units.
        write("/etc/machine-id", ""),
        {"op": "link", "path": "/etc/localtime", "target": _zone(spec)},
        write("/etc/timezone", f"{spec.identity.timezone}\n"),
        write("/etc/default/locale", f"LANG={spec.identity.locale}\n"),
    ]


def _zone(spec: Spec) -> str:
    return f"/usr/share/zoneinfo/{spec.identity.timezone}"


def network(spec: Spec) -> list[Operation]:
    """What configures the NICs of a tree, by systemd-networkd."""
    ops: list[Operation] = []
    dns: list[str] = []
    fallback = False
    for index, nic in enumerate(spec.nics):
        vif = _vif(spec, index)
        place = networkd.by_place(index)
        if nic.network == "none":
            texts = networkd.unused_file(networkd.by_mac(vif)), networkd.unused_file(place)
        else:
            texts = networkd.network_file(vif), networkd.network_file(vif, place)
        # Sorted after the files of all MAC addresses: OpenNebula's networks, nova and an XVA
        # imported without restore give other addresses than the spec's.
        for name, text in zip((f"vif{index}", f"vifplace{index}"), texts, strict=True):
            ops.append(write(f"{networkd.DIRECTORY}/10-imagekit-{name}.network", text))
        dns += vif.dns
        fallback = fallback or (nic.network == "dhcp" and nic.mac is None)
    if fallback:
        # A golden image's clones have other MACs; one that the spec did not fix binds nothing.
        text = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"
        ops.append(write("/etc/systemd/network/80-imagekit-dhcp.network", text))
    ops.append({"op": "remove", "path": "/etc/resolv.conf"})
    resolved = "/usr/lib/systemd/systemd-resolved"
    if dns:
        ops.append(write("/etc/resolv.conf", "".join(f"nameserver {d}\n" for d in dns)))
    ops.append(
        {
            "op": "link",
            "path": "/etc/resolv.conf",
            "target": "../run/systemd/resolve/stub-resolv.conf",
            "if_exists": resolved,
        }
    )
    return ops


def _vif(spec: Spec, index: int) -> Vif:
    fixed = spec.nics[index].network
    if not isinstance(fixed, StaticNetwork):
        return Vif(mac_of(spec, index))
    lists = fixed.addresses, fixed.gateways, fixed.dns, fixed.search
    return Vif(mac_of(spec, index), *map(tuple, lists))


def fstab(spec: Spec, layout: Layout) -> str:
    """fstab(5) by UUID, never by device name: xvda is sda elsewhere."""
    lines = ["# Written by imagekit."]
    mounts = sorted((p for p in layout.parts if p.mount), key=lambda p: p.mount)
    for part in mounts:
        if part.role == "esp":
            continue
        filesystem = spec.disk.filesystem if part.role == "lvm" else part.filesystem
        options = "errors=remount-ro" if filesystem == "ext4" and part.mount == "/" else "defaults"
        check = 0 if filesystem != "ext4" else (1 if part.mount == "/" else 2)
        lines.append(f"UUID={part.fs_uuid}\t{part.mount}\t{filesystem}\t{options}\t0\t{check}")
    swap = layout.find("swap")
    if swap:
        lines.append(f"UUID={swap.fs_uuid}\tnone\tswap\tsw\t0\t0")
    elif spec.disk.lvm and spec.disk.swap:
        lines.append(f"/dev/{spec.disk.volume_group}/swap\tnone\tswap\tsw\t0\t0")
    return "\n".join(lines) + "\n"


def _boot_support(spec: Spec, layout: Layout, cmdline: str) -> list[Operation]:
    apart = layout.find("boot") is not None
    defaults = (
        "# Read by /usr/lib/imagekit/update-grub-cfg after a kernel comes or goes.\n"
        f"BOOT_UUID={layout.boot_part.fs_uuid}\nBOOT_PREFIX={'' if apart else '/boot'}\n"
        f"TIMEOUT={spec.boot.timeout}\nCMDLINE='{cmdline}'\n"
    )
    script = (GUESTFILES / "update-grub-cfg").read_bytes()
    sshd: dict[str, Any] = {"if_exists": "/usr/sbin/sshd"}
    hooks = [
        {"op": "link", "path": f"/etc/kernel/{when}.d/zz-imagekit-grub"}
        | {"target": "/usr/lib/imagekit/update-grub-cfg"}
        for when in ("postinst", "postrm")
    ]
    return [
        write("/etc/default/imagekit-boot", defaults),
        write("/usr/lib/imagekit/update-grub-cfg", script, 0o755),
        *hooks,
        write(hostkeys.UNIT_PATH, hostkeys.UNIT, **sshd),
        {"op": "link", "path": hostkeys.WANTED_BY, "target": hostkeys.UNIT_PATH, **sshd},
    ]


def _accounts(file: SpecFile, secrets: Mapping[str, str]) -> list[Operation]:
    identity = file.spec.identity
    ops: list[Operation] = []
    if "root" in secrets:
        ops.append({"op": "hash", "name": "root", "hash": secrets["root"]})
    if identity.ssh_keys:
        ops.append({"op": "keys", "name": "root", "keys": identity.ssh_keys})
    for user in identity.users:
        ops += _user(user, secrets.get(user.name))
    return ops


def _user(user: User, hash_: str | None) -> Sequence[Operation]:
    ops: list[Operation] = [
        {
            "op": "user",
            "name": user.name,
            "gecos": user.gecos,
            "shell": user.shell,
            "groups": user.groups,
            "hash": hash_,
        }
    ]
    if user.ssh_keys:
        ops.append({"op": "keys", "name": user.name, "keys": user.ssh_keys})
    if user.sudo:
        rule = f"{user.name} ALL=(ALL:ALL) {'ALL' if hash_ else 'NOPASSWD: ALL'}\n"
        ops.append(write(f"/etc/sudoers.d/imagekit-{user.name}", rule, 0o440))
    return ops


def _file(file: SpecFile, item: File) -> Operation:
    mode = int(item.mode, 8)
    if item.content is not None:
        return write(item.target, item.content, mode, owner=item.owner)
    return {
        "op": "copy",
        "path": item.target,
        "source": str(file.resolve(item.source or "")),
        "mode": mode,
        "owner": item.owner,
    }
