"""The Xens that there is a lab for, and how each is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.proof.machine import LINUX_ARGS, XEN_ARGS, Shape
from imagekit.spec.model import ProofToolstack

SHIPS = ("labs",)
LABS = Path(__file__).parent / "labs"
DEFAULT_XEN = "4.17"
LIBVIRT = ("libvirt-daemon", "libvirt-daemon-driver-xen", "libvirt-clients")
"""What libvirt's Xen driver and virsh are in Debian."""


@dataclass(frozen=True)
class LabXen:
    """One Xen; ``version`` is what users call it, its spec says which release of Debian brings it.

    ``xen_args`` and ``linux_args`` are the command lines of the hypervisor and of dom0's kernel.
    ``added`` are packages of its dom0 beside those of the spec.
    """

    version: str
    xen_args: str = XEN_ARGS
    linux_args: str = LINUX_ARGS
    added: tuple[str, ...] = ()

    def having(self, toolstack: ProofToolstack) -> LabXen:
        """This Xen with a dom0 that has ``toolstack``; xl is in each."""
        return replace(self, added=LIBVIRT) if toolstack == "libvirt" else self

    @property
    def spec(self) -> Path:
        """The spec of its dom0, which ships with imagekit."""
        return LABS / f"xen-{self.version}.yaml"

    def shape(self, memory_mib: int) -> Shape:
        """The machine it runs on, with ``memory_mib`` MiB."""
        return Shape(memory_mib, self.xen_args, self.linux_args)


# QEMU's emulated SVM does not intercept XSETBV (target/i386/tcg/fpu_helper.c, helper_xsetbv), so
# Xen never learns which registers a PVH or HVM guest has enabled. Up to 4.17 it reads their size
# from the processor; 4.20 counts it from what it knows (arch/x86/cpuid.c, leaf 0xd) and tells the
# guest 0 bytes, whose kernel warns then and gives up XSAVE. Here it is not offered at all.
_NO_XSAVE = f"{XEN_ARGS} xsave=0"

XENS = {
    xen.version: xen
    for xen in (
        LabXen("4.14"),
        LabXen("4.17"),
        LabXen("4.20", xen_args=_NO_XSAVE),
    )
}
"""Every Xen there is a lab for, by its version, the oldest first."""


def named(versions: Sequence[str], where: str) -> tuple[LabXen, ...]:
    """The Xens called ``versions``, each once; DEFAULT_XEN for none.

    Raises SpecError, with ``where`` as the place, for one that no lab has.
    """
    for version in versions:
        if version not in XENS:
            raise SpecError(
                f"there is no lab with Xen {version}", where=where, hint=f"one of {', '.join(XENS)}"
            )
    return tuple(XENS[version] for version in dict.fromkeys(versions or [DEFAULT_XEN]))
