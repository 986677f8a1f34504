"""What a proof must know of a guest's config, whichever toolstack it is for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from imagekit.errors import SpecError
from imagekit.spec.model import ProofToolstack

TOOLSTACKS: tuple[ProofToolstack, ...] = get_args(ProofToolstack)
"""Those that a lab has."""

MAX_CONFIG_BYTES = 1 << 20
_PVGRUB = re.compile(r"/(grub-[a-z0-9_]+-xen(_pvh)?\.bin|pv-?grub[^/]*)$|^pvgrub")


@dataclass(frozen=True)
class GuestDisk:
    """One disk; ``path`` is None for an empty drive, ``script`` names a block script."""

    path: str | None
    format: str
    vdev: str
    readonly: bool
    cdrom: bool
    script: str | None = None


@dataclass(frozen=True)
class GuestNic:
    """One interface, as far as it is named."""

    mac: str | None
    bridge: str | None


@dataclass(frozen=True)
class GuestConfig:
    """A config: its toolstack, its file, its bytes, and what they say."""

    toolstack: ProofToolstack
    path: Path
    data: bytes
    name: str
    mode: str
    boot: str
    memory_mib: int
    kernel: str | None
    ramdisk: str | None
    bootloader: str | None
    disks: tuple[GuestDisk, ...]
    nics: tuple[GuestNic, ...]
    serial: bool

    @property
    def sha256(self) -> str:
        """Of the config's bytes, as 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The config at ``path``; raises SpecError for one that is over 1 MiB or cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot read the config: {error.strerror}", where=str(path)) from None
    if len(data) > MAX_CONFIG_BYTES:
        raise SpecError("the config is larger than 1 MiB", where=str(path))
    return data


def boot_path(mode: str, kernel: str | None, bootloader: str | None, *, uefi: bool) -> str:
    """pygrub, netboot (another bootloader), pvgrub, direct, firmware (a BIOS) or uefi."""
    if mode == "hvm":
        return "direct" if kernel else "uefi" if uefi else "firmware"
    if bootloader:
        return "pygrub" if PurePosixPath(bootloader).name == "pygrub" else "netboot"
    return "pvgrub" if kernel and _PVGRUB.search(kernel) else "direct"
