"""What a spec puts into the tree: identity, network, fstab, boot menu, accounts, files.

All of it is computed here as a list of changes, and carried out by :mod:`imagekit.guest.apply`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagekit.disk.layout import Layout
from imagekit.guest import hostkeys
from imagekit.guest.changes import (
    Change,
    ForgetIdentity,
    HostKeysAtBoot,
    Link,
    SetNetwork,
    Write,
)
from imagekit.guest.from_spec import account_changes, digest_of_files, file_changes
from imagekit.guest.golden import MACHINE_ID_MODE
from imagekit.guest.network import networkd
from imagekit.guest.network.state import NetworkState, Vif
from imagekit.pipeline.stage import digest_file
from imagekit.spec.derived import mac_of
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec, StaticNetwork

SHIPS = ("../guestfiles",)
GUESTFILES = Path(__file__).parents[1] / "guestfiles"


def digest_of(file: SpecFile, secrets: Mapping[str, str]) -> dict[str, Any]:
    """What the changes depend on, as digests: for the key of the stage."""
    spec = file.spec
    return {
        "identity": spec.identity.model_dump(mode="json"),
        "hostname": spec.hostname,
        "network": [[f.path, f.text, f.mode] for f in networkd.render(network_state(spec))],
        "files": digest_of_files(file),
        "secrets": digest_of_secrets(secrets),
        "host keys": hostkeys.UNIT,
        "guest files": {p.name: digest_file(p) for p in sorted(GUESTFILES.iterdir())},
    }


def digest_of_secrets(secrets: Mapping[str, str]) -> str:
    """One digest of all ``secrets``, crypt hashes by account name."""
    lines = "".join(f"{k}:{v}\n" for k, v in sorted(secrets.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def changes(
    file: SpecFile, layout: Layout, cmdline: str, secrets: Mapping[str, str]
) -> list[Change]:
    """Everything to do in the tree, in order; user files come last and win.

    ``secrets`` are the crypt hashes by account name.
    """
    spec = file.spec
    return [
        ForgetIdentity(),
        *_identity(spec),
        SetNetwork(network_state(spec)),
        _text("/etc/fstab", fstab(spec, layout)),
        *_boot_support(spec, layout, cmdline),
        *account_changes(spec.identity, secrets),
        *file_changes(file),
    ]


def _text(path: str, text: str, mode: int = 0o644) -> Write:
    return Write(path, text.encode(), mode, "root:root")


def _identity(spec: Spec) -> list[Change]:
    host, domain = spec.hostname, spec.identity.domain
    names = f"{host}.{domain} {host}" if domain else host
    hosts = (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
    return [
        _text("/etc/hostname", f"{host}\n"),
        _text("/etc/hosts", hosts),
        # Empty, not "uninitialized": the first boot makes an id without resetting all units.
        _text("/etc/machine-id", "", MACHINE_ID_MODE),
        Link("/etc/localtime", _zone(spec)),
        _text("/etc/timezone", f"{spec.identity.timezone}\n"),
        _text("/etc/default/locale", f"LANG={spec.identity.locale}\n"),
    ]


def _zone(spec: Spec) -> str:
    return f"/usr/share/zoneinfo/{spec.identity.timezone}"


def network_state(spec: Spec) -> NetworkState:
    """The NICs of a spec as its guest knows them."""
    # Clones of the image have other MACs than those that were only derived.
    free = any(nic.network == "dhcp" and nic.mac is None for nic in spec.nics)
    vifs = tuple(_vif(spec, index) for index in range(len(spec.nics)))
    return NetworkState(vifs, by_place=True, others_by_dhcp=free)


def _vif(spec: Spec, index: int) -> Vif:
    fixed = spec.nics[index].network
    if not isinstance(fixed, StaticNetwork):
        return Vif(mac_of(spec, index), unused=fixed == "none")
    return Vif(
        mac_of(spec, index),
        addresses=tuple(fixed.addresses),
        gateways=tuple(fixed.gateways),
        dns=tuple(fixed.dns),
        search=tuple(fixed.search),
    )


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


def _boot_support(spec: Spec, layout: Layout, cmdline: str) -> list[Change]:
    apart = layout.find("boot") is not None
    defaults = (
        "# Read by /usr/lib/imagekit/update-grub-cfg after a kernel comes or goes.\n"
        f"BOOT_UUID={layout.boot_part.fs_uuid}\nBOOT_PREFIX={'' if apart else '/boot'}\n"
        f"TIMEOUT={spec.boot.timeout}\nCMDLINE='{cmdline}'\n"
    )
    script = (GUESTFILES / "update-grub-cfg").read_text()
    program = "/usr/lib/imagekit/update-grub-cfg"
    return [
        _text("/etc/default/imagekit-boot", defaults),
        _text(program, script, 0o755),
        *(
            Link(f"/etc/kernel/{when}.d/zz-imagekit-grub", program)
            for when in ("postinst", "postrm")
        ),
        HostKeysAtBoot(),
    ]
