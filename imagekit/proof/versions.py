"""What a proof ran on: the versions and digests of everything that took part beside the guest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from imagekit.errors import HostError, ToolError
from imagekit.host import tools as host_tools
from imagekit.host.chroot import chroot
from imagekit.host.run import run
from imagekit.host.sandbox.profiles import LISTING
from imagekit.pipeline.stage import digest_file
from imagekit.proof.tools import LabTools

OVMF = ("usr/share/ovmf/OVMF.fd", "usr/lib/xen-4.17/boot/ovmf.bin")
MAX_JSON = 1 << 20
_QEMU = re.compile(r"^QEMU emulator version (\S[^\n]{0,98})", re.MULTILINE)


@dataclass(frozen=True)
class Component:
    """A program, kernel, firmware or image: its version, and its file's SHA-256; None: unknown."""

    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class LabVersions:
    """What guests were proven on. ``accelerator`` is "tcg" or "kvm"; ``reason`` may say why.

    Xen and dom0 are None for proofs in plain QEMU; a firmware is None where there is none.
    ``check`` is what the lab's self-check found, or None.
    """

    accelerator: str
    qemu: Component
    xen: Component | None = None
    dom0_kernel: Component | None = None
    dom0_disk: Component | None = None
    seabios: Component | None = None
    ovmf: Component | None = None
    reason: str | None = None
    check: str | None = None


def qemu_component(program: str) -> Component:
    """The QEMU that ``program`` (a name or path) starts: what it says of itself, and its digest."""
    path = Path(program) if "/" in program else host_tools.find(program)
    try:
        said = _QEMU.search(run([program, "--version"], timeout=30).text)
    except (HostError, ToolError):
        said = None
    return Component(said[1] if said else None, _digest(path))


def firmware_component(path: Path, version: str | None) -> Component | None:
    """A firmware file of this host; None where it is not there."""
    digest = _digest(path)
    return Component(version, digest) if digest else None


def describe_tree(tree: Path, log: Path) -> str:
    """JSON about the dom0 in ``tree``: its packages' versions and the digest of its OVMF.

    To be read by :func:`lab_versions`; made while the tree has all its files. Raises ToolError.
    """
    argv = ["dpkg-query", "-W", "-f", "${Package}\\t${Version}\\n"]
    listing = chroot(tree, argv, profile=LISTING, log=log, what="listing the lab's packages").text
    rows = (line.split("\t") for line in listing.splitlines())
    versions = {row[0]: row[1] for row in rows if len(row) == 2}

    def newest(prefix: str) -> str | None:
        return next((v for name, v in sorted(versions.items()) if name.startswith(prefix)), None)

    ovmf = next((tree / name for name in OVMF if (tree / name).is_file()), None)
    parts = {
        "xen": Component(newest("xen-hypervisor-4")),
        "dom0_kernel": Component(newest("linux-image-")),
        "ovmf": Component(versions.get("ovmf"), _digest(ovmf)) if ovmf else None,
    }
    return json.dumps({name: asdict(part) if part else None for name, part in parts.items()})


def lab_versions(described: Path, digests: Mapping[str, str], tools: LabTools) -> LabVersions:
    """What a lab is made of.

    ``described`` holds what :func:`describe_tree` wrote, ``digests`` the SHA-256 of the artefacts
    xen, vmlinuz and dom0.img; ``tools`` brings QEMU and SeaBIOS.
    """
    with described.open("rb") as stream:
        value = json.loads(stream.read(MAX_JSON))
    parts = {name: Component(**part) if part else None for name, part in value.items()}
    return LabVersions(
        "tcg",
        Component(tools.emulator.version, tools.emulator.sha256),
        xen=_with(parts["xen"], digests.get("xen")),
        dom0_kernel=_with(parts["dom0_kernel"], digests.get("vmlinuz")),
        dom0_disk=Component(None, digests.get("dom0.img")),
        seabios=Component(f"{tools.firmware.version} with ATA DMA", tools.firmware.sha256),
        ovmf=parts["ovmf"],
    )


def sentence(versions: LabVersions) -> str:
    """The versions on one line; digests are in the report."""
    named = (
        ("QEMU", versions.qemu),
        ("Xen", versions.xen),
        ("dom0 kernel", versions.dom0_kernel),
        ("SeaBIOS", versions.seabios),
        ("OVMF", versions.ovmf),
    )
    words = [f"{name} {part.version or 'of unknown version'}" for name, part in named if part]
    checked = [f"lab check: {versions.check}"] if versions.check else []
    return ", ".join([versions.accelerator, *words, *checked])


def _with(part: Component | None, digest: str | None) -> Component:
    return Component(part.version if part else None, digest)


def _digest(path: Path | None) -> str | None:
    try:
        return digest_file(path) if path is not None and path.is_file() else None
    except OSError:
        return None
