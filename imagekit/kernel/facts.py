"""What one kernel image shows, gathered once for the verdicts.

The byte strings are of Linux: ``arch/x86/xen/enlighten_pv.c``, ``enlighten_pvh.c``,
``enlighten_hvm.c`` (names of the hypervisor interfaces) and ``platform-pci-unplug.c`` (messages
compiled in only when the frontends are built, as modules or not).
"""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.kernel import xen_notes
from imagekit.kernel.image import KernelImage
from imagekit.kernel.kconfig import KernelConfig, version_of
from imagekit.kernel.xen_notes import XenNotes

Version = tuple[int, int]

PVH_SINCE: Version = (4, 11)
"""First Linux whose CONFIG_XEN_PVH is the PVH of today; before, it was the dead first version."""

XEN_PV_SINCE: Version = (4, 13)
"""First Linux with the symbol XEN_PV; before, CONFIG_XEN=y alone means PV."""


@dataclass(frozen=True)
class ImageFacts:
    """One image and its optional configuration; the strings are None without a payload."""

    image: KernelImage
    notes: XenNotes
    config: KernelConfig | None
    linux: bool
    says_pvh: bool | None
    says_pvhvm: bool | None
    unplugs_disks: bool | None
    unplugs_nics: bool | None
    paravirt: bool | None
    blkfront_builtin: bool
    netfront_builtin: bool

    @property
    def version(self) -> Version | None:
        """Linux version from the image, else from the configuration."""
        from_config = self.config.release if self.config else None
        return version_of(self.image.release) or version_of(from_config)

    def config_says(self, symbol: str) -> str | None:
        """y, m, n, or None: no configuration, or it does not say."""
        return self.config.value(symbol) if self.config else None

    @property
    def config_is_of_this_kernel(self) -> bool:
        """False when both versions are known and differ."""
        mine = version_of(self.image.release)
        theirs = version_of(self.config.release) if self.config else None
        return mine is None or theirs is None or mine == theirs


def gather(image: KernelImage, config: KernelConfig | None) -> ImageFacts:
    """Search the image's payload for everything the verdicts need."""
    notes = xen_notes.read(image.elf) if image.elf else XenNotes(None)

    def shows(*texts: bytes) -> bool | None:
        return None if image.payload is None else any(image.contains(text) for text in texts)

    linux = image.container == "bzImage" or bool(shows(b"Linux version "))
    return ImageFacts(
        image=image,
        notes=notes,
        config=config,
        linux=linux or notes.texts.get("GUEST_OS") == "linux",
        says_pvh=shows(b"Xen PVH\0"),
        says_pvhvm=shows(b"Xen HVM\0", b"xen_emul_unplug"),
        unplugs_disks=shows(b"Blkfront and the Xen platform PCI driver"),
        unplugs_nics=shows(b"Netfront and the Xen platform PCI driver"),
        paravirt=shows(b"Booting paravirtualized kernel"),
        # Parameters of built-in modules carry the module's name (Linux include/linux/moduleparam.h)
        blkfront_builtin=bool(shows(b"xen_blkfront.max")),
        netfront_builtin=bool(shows(b"xen_netfront.max_queues")),
    )
