"""``imagekit doctor``: what this host lacks for each thing imagekit does."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from imagekit.errors import ImagekitError
from imagekit.host import tools
from imagekit.host.kvm import kvm_works
from imagekit.host.sandbox import bounds, means, network
from imagekit.host.worker import missing_confinement
from imagekit.pipeline.workspace import cache_root
from imagekit.vm import uefi

NEEDS: dict[str, tuple[str, ...]] = {
    "debootstrap": (
        *("mmdebstrap", "gpgv", "tar", "unshare", "setpriv", "mke2fs", "sfdisk"),
        "slirp4netns",
        *("grub-mkimage", "qemu-img", "mkfs.vfat", "mcopy"),
    ),
    "iso": ("xorriso", "qemu-system-x86_64", "qemu-img", "cpio", "gpgv"),
    "netboot": ("dnsmasq", "qemu-system-x86_64", "gpgv"),
    "inject, inspect, check": ("qemu-img", "qemu-system-x86_64"),
    "prove": ("qemu-system-x86_64", "mmdebstrap", "mke2fs"),
}
WANTED: dict[str, tuple[str, ...]] = {
    "bundle": ("gpg", "age", "minisign", "ssh-keygen"),
    "xfs": ("mkfs.xfs", "faketime"),
    "btrfs": ("mkfs.btrfs",),
}
"""What only those lack who ask for it: kinds of keys and of file systems."""
FILES: dict[str, tuple[tuple[str, str], ...]] = {
    "debootstrap": (
        ("/usr/lib/grub/i386-pc/kernel.img", "grub-pc-bin"),
        ("/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at: for which pipeline, whether it is there, what to do if not."""

    pipeline: str
    name: str
    ok: bool
    detail: str
    required: bool = True


def checks() -> list[Check]:
    """Look at everything; starts a virtual machine once to see whether KVM works."""
    found: list[Check] = []
    for pipeline, names in NEEDS.items():
        for name in names:
            path = tools.find(name)
            detail = str(path) if path else f"apt-get install {tools.PACKAGES[name]}"
            found.append(Check(pipeline, name, path is not None, detail))
        for file, package in FILES.get(pipeline, ()):
            there = Path(file).exists()
            detail = file if there else f"apt-get install {package}"
            found.append(Check(pipeline, package, there, detail))
    for pipeline, names in WANTED.items():
        for name in names:
            path = tools.find(name)
            detail = str(path) if path else f"apt-get install {tools.PACKAGES[name]}"
            found.append(Check(pipeline, name, path is not None, detail, required=False))
    found += [_uefi("prove"), _uefi("iso", required=False)]
    found.append(_guestfs())
    found += _sandbox()
    found.append(_readers())
    verdict = kvm_works()
    found.append(Check("speed", "KVM", verdict.works, verdict.reason, required=False))
    return found


def _uefi(pipeline: str, *, required: bool = True) -> Check:
    there = uefi.find_uefi()
    detail = str(there.code) if there else f"apt-get install {uefi.PACKAGE}"
    return Check(pipeline, uefi.PACKAGE, there is not None, detail, required)


def _guestfs() -> Check:
    pipeline = "inject, inspect, check"
    try:
        import guestfs

        version = guestfs.GuestFS(python_return_dict=True).version()
    except (ImportError, RuntimeError) as error:
        return Check(
            pipeline, "guestfs", False, f"{error}; apt-get install python3-guestfs libguestfs0"
        )
    shown = f"libguestfs {version['major']}.{version['minor']}.{version['release']}"
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    if not kernels:
        return Check(
            pipeline, "guestfs", False, "no kernel in /boot: apt-get install linux-image-amd64"
        )
    if not any(os.access(k, os.R_OK) for k in kernels):
        return Check(
            pipeline, "guestfs", False, f"as root: chmod 0644 {kernels[-1]} (dpkg-statoverride)"
        )
    return Check(pipeline, "guestfs", True, shown)


def _sandbox() -> list[Check]:
    """What a sandbox is made of; without the first three nothing is built."""
    lacking = means.missing()
    found = []
    for name in (means.USER_NAMESPACE, means.FILTER):
        problem = lacking.get(name)
        detail = f"{problem[0]}: {problem[1]}" if problem else "usable"
        found.append(Check("debootstrap", name, problem is None, detail))
    problem = network.no_tunnel()
    detail = f"{problem[0]}: {problem[1]}" if problem else "usable"
    found.append(Check("debootstrap", means.NETWORK, problem is None, detail))
    mapped = means.tmpfs_idmapped()
    detail = "also in memory" if mapped else "not in memory before Linux 6.3: ids stay root's there"
    found.append(Check("debootstrap", "idmapped mounts", mapped, detail, required=False))
    with bounds.group(bounds.SMALL, 1) as group:
        detail = "memory and processes" if group else "setrlimit(2) bounds each process alone"
        found.append(Check("debootstrap", "control groups", group is not None, detail, False))
    return found


def _readers() -> Check:
    """What stands around the processes that read files of strangers (imagekit.host.worker)."""
    name = "confined readers"
    try:
        missing = missing_confinement()
    except ImagekitError as error:
        return Check("all", name, False, error.what)
    detail = "; ".join(missing) or "nobody, alone, without files, network or system calls"
    return Check("all", name, not missing, detail, required=False)


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is missing on this host for each pipeline, and which package brings it."""
    found = checks()
    if json_output:
        print(json.dumps({"checks": [asdict(c) for c in found]}, indent=2))
    else:
        for check in found:
            state = "ok" if check.ok else ("missing" if check.required else "no")
            print(f"{state:<8} {check.pipeline:<24} {check.name:<24} {check.detail}")
        print(f"store: {cache_root()}")
    missing = [c for c in found if c.required and not c.ok]
    if missing and not json_output:
        print(f"{len(missing)} missing; without them the pipelines named cannot run")
    raise typer.Exit(4 if missing else 0)
