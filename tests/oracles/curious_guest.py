"""A guest that tries to reach what it is told to, over QEMU's network, and says what answered.

Made of this host's kernel and busybox; booted by PXE. It prints a line for each trial: ``TRIED``,
its name, and ``reached`` or ``not``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

BOOT = Path("/boot")
MODULES = Path("/usr/lib/modules")
BUSYBOX = Path("/bin/busybox")
# They are loaded in rounds, as they need each other; what a kernel has built in is in no file.
DRIVERS = (
    *("virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net", "af_packet"),
)
START = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1 </dev/null
for round in 1 2 3; do for m in /drivers/*; do insmod $m 2>/dev/null; done; done
ip link set lo up
ip link set eth0 up
udhcpc -q -n -i eth0 -s /dhcp || echo NO-DHCP
echo nameserver $(cat /dns) >/etc/resolv.conf
try() { name=$1; shift; if timeout 20 "$@" >/said 2>&1; then echo TRIED $name reached
else echo TRIED $name not; head -c 300 /said; fi; }
"""
DHCP = """#!/bin/busybox sh
[ -z "$ip" ] && exit
ip addr add $ip/$mask dev eth0
ip route add default via $router
echo $dns >/dns
"""


def kernel() -> Path | None:
    """The newest kernel of this host that has its modules here."""
    found = [p for p in sorted(BOOT.glob("vmlinuz-*")) if (MODULES / release(p)).is_dir()]
    return found[-1] if found and BUSYBOX.is_file() else None


def release(path: Path) -> str:
    """The release of the kernel ``path``."""
    return path.name.removeprefix("vmlinuz-")


def make(directory: Path, http: str, trials: Mapping[str, str]) -> None:
    """Make ``directory``/tftp to boot by PXE, and kernel and initrd, which ``http`` serves.

    ``trials`` are commands of busybox's shell by their names.
    """
    found = kernel()
    assert found is not None
    tree = directory / "tree"
    for name in ("bin", "proc", "sys", "dev", "drivers", "etc"):
        (tree / name).mkdir(parents=True)
    shutil.copyfile(BUSYBOX, tree / "bin/busybox")
    for number, driver in enumerate(DRIVERS):
        for path in (MODULES / release(found)).rglob(f"{driver}.ko*"):
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = subprocess.run(["xz", "-dc", path], check=True, capture_output=True).stdout
            (tree / f"drivers/{number:02d}-{driver}.ko").write_bytes(data)
    tried = "".join(f"try {name} {command}\n" for name, command in trials.items())
    (tree / "init").write_text(f"{START}{tried}echo TRIED-ALL\npoweroff -f\n")
    (tree / "dhcp").write_text(DHCP)
    for name in ("init", "dhcp", "bin/busybox"):
        (tree / name).chmod(0o755)
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*"))).encode()
    archive = ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"]
    done = subprocess.run(archive, input=names, cwd=tree, capture_output=True, check=True)
    (directory / "initrd").write_bytes(done.stdout)
    shutil.copyfile(found, directory / "linux")
    (directory / "tftp").mkdir()
    (directory / "tftp/boot.ipxe").write_text(
        f"#!ipxe\nkernel {http}/linux console=ttyS0 quiet panic=-1\ninitrd {http}/initrd\nboot\n"
    )
