"""What a boot config, of whatever kind, tells a client to boot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BootEntry:
    """A kernel to fetch: names as the config writes them, ``args`` the kernel's command line."""

    label: str
    kernel: str
    initrds: tuple[str, ...] = ()
    args: str = ""
    ipappend: int = 0


@dataclass(frozen=True)
class LocalBoot:
    """Boot the guest's own disk; ``why`` says what in the config said so."""

    why: str
