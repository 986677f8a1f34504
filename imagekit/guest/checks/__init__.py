"""The checks, one file per topic: what they look for, and the repairs that are safe."""

from __future__ import annotations

from imagekit.guest.checks import boot, console, fstab, identity, initrd, network
from imagekit.guest.findings import Check, Fix

CHECKS: tuple[Check, ...] = (
    boot.find,
    initrd.find,
    fstab.find,
    console.find,
    network.find,
    identity.find,
)

FIXES: dict[str, Fix] = {
    **fstab.FIXES,
    **console.FIXES,
    **network.FIXES,
    **identity.FIXES,
    **initrd.FIXES,
}
"""Repairs by the code of their finding, in the order in which they are made: initrds last, since
they hold copies of files that the others change."""
