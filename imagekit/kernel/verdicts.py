"""The rules: from what an image and its configuration show to a verdict with evidence.

Xen's domain builder is too lax to be the judge (it loads kernels that then stop at once), so the
rules ask for proof that the kernel has the code: Linux ``arch/x86/xen/xen-head.S``,
``arch/x86/platform/pvh/enlighten.c``.
"""

from __future__ import annotations

from imagekit.kernel.facts import PVH_SINCE, XEN_PV_SINCE, ImageFacts
from imagekit.kernel.report import Capability, DomLoader

DOM0_CODECS = frozenset({"gzip", "xz", "lzma", "lz4", "zstd"})
"""What libxenguest 4.17 of Debian 12 unpacks; its bzip2 and lzo support is not compiled in."""

_XEN_LINUX_SYMBOLS = ("X86_XEN", "X86_64_XEN")
"""Set in XenLinux kernels, which run nowhere but as PV."""


def pv(facts: ImageFacts) -> Capability:
    """PV: the kernel has a PV entry point and Xen accepts its notes."""
    if facts.image.payload is None:
        return _from_config(facts, "XEN_PV", XEN_PV_SINCE, old_symbol="XEN")
    notes = facts.notes
    evidence: list[str] = []
    if notes.entry is None:
        evidence.append(f"no ENTRY note and no __xen_guest string (notes: {notes.names()})")
        _disagreement(facts, evidence, "XEN_PV", found=False)
        return Capability(False, tuple(evidence))
    if notes.source == "__xen_guest":
        evidence.append(f"__xen_guest string with {notes.texts.get('XEN_VERSION', 'no XEN_VER')}")
    else:
        evidence.append(f"Xen ELF note ENTRY = {notes.entry:#x}")
    refusal = notes.pv_refusal()
    if refusal:
        return Capability(False, (*evidence, refusal))
    evidence.append(
        f"XEN_VERSION {notes.texts['XEN_VERSION']}, GUEST_OS {notes.texts.get('GUEST_OS', '?')}"
    )
    if facts.image.arch == "i386":
        evidence.append(
            "32-bit PV: Xen since 4.16 has it off by default; there use type pvh with pvshim"
        )
    _disagreement(facts, evidence, "XEN_PV", found=True)
    return Capability(True, tuple(evidence))


def pvh(facts: ImageFacts) -> Capability:
    """PVH: a PHYS32_ENTRY note, and for Linux proof that the code behind it knows Xen."""
    if facts.image.payload is None:
        return _from_config(facts, "XEN_PVH", PVH_SINCE)
    entry = facts.notes.phys32_entry
    configured = facts.config_says("XEN_PVH")
    if entry is None:
        evidence = [f"no PHYS32_ENTRY note (notes: {facts.notes.names()})"]
        if configured == "y" and facts.version and facts.version < PVH_SINCE:
            evidence.append("CONFIG_XEN_PVH=y before Linux 4.11 is the first PVH, gone from Xen")
        else:
            _disagreement(facts, evidence, "XEN_PVH", found=False)
        return Capability(False, tuple(evidence))
    evidence = [f"Xen ELF note PHYS32_ENTRY = {entry:#x}"]
    if not facts.linux:
        return Capability(True, (*evidence, "not Linux: the note is all that PVH needs"))
    if facts.says_pvh:
        evidence.append("the kernel holds the string 'Xen PVH' (CONFIG_XEN_PVH)")
        _disagreement(facts, evidence, "XEN_PVH", found=True)
        return Capability(True, tuple(evidence))
    evidence.append("the kernel lacks the string 'Xen PVH' (CONFIG_XEN_PVH)")
    new_enough = facts.version is None or facts.version >= PVH_SINCE
    if configured == "y" and new_enough and facts.config_is_of_this_kernel:
        return Capability(True, (*evidence, f"{_config_name(facts)} has CONFIG_XEN_PVH=y"))
    evidence.append("Xen would load it and the kernel stop at once: the entry is for KVM or QEMU")
    return Capability(False, tuple(evidence))


def hvm(facts: ImageFacts) -> Capability:
    """HVM: a kernel that firmware and bootloaders can start on a bare machine."""
    for symbol in _XEN_LINUX_SYMBOLS:
        if facts.config_says(symbol) == "y" and facts.config_is_of_this_kernel:
            return Capability(
                False, (f"{_config_name(facts)} has CONFIG_{symbol}=y: XenLinux, PV only",)
            )
    if facts.image.container != "bzImage":
        return Capability(
            False, ("no bzImage setup header: neither a bootloader nor QEMU starts it as HVM",)
        )
    if _is_xen_linux(facts):
        return Capability(
            False,
            (
                "a PV entry point, no paravirt_ops and no PVH entry in a kernel named "
                f"{facts.image.release}: XenLinux, PV only",
            ),
        )
    protocol = facts.image.protocol or 0
    return Capability(
        True,
        (f"bzImage, boot protocol {protocol >> 8}.{protocol & 0xFF:02}: boots as on bare metal",),
    )


def _is_xen_linux(facts: ImageFacts) -> bool:
    return (
        facts.notes.entry is not None
        and facts.notes.phys32_entry is None
        and facts.paravirt is False
        and not facts.says_pvhvm
        and "xen" in (facts.image.release or "")
    )


def dom0_loader(facts: ImageFacts) -> DomLoader:
    """Whether Debian 12's libxenguest unpacks this kernel for PV and PVH."""
    image = facts.image
    if image.protocol is not None and image.protocol < 0x0208:
        return DomLoader(False, ("bzImage boot protocol below 2.08: Xen calls it too old",))
    if image.compression is None:
        if image.payload is None:
            return DomLoader(None, (image.payload_error or "the compression is unknown",))
        return DomLoader(True, ("the kernel is not compressed",))
    if image.compression in DOM0_CODECS:
        since = " (since Xen 4.15)" if image.compression == "zstd" else ""
        return DomLoader(True, (f"libxenguest 4.17 unpacks {image.compression}{since}",))
    return DomLoader(
        False,
        (f"libxenguest 4.17 of Debian 12 is built without {image.compression}",),
    )


def _from_config(
    facts: ImageFacts, symbol: str, since: tuple[int, int], old_symbol: str | None = None
) -> Capability:
    """The verdict when the image could not be unpacked: the configuration is all there is.

    ``since`` is the first Linux in which ``symbol`` means what it says; ``old_symbol`` stood for
    it before.
    """
    evidence = [f"the image could not be unpacked: {facts.image.payload_error}"]
    if facts.config is None:
        return Capability(False, (*evidence, "no configuration file was given: no evidence"))
    old = facts.version is not None and facts.version < since
    if old and old_symbol is None:
        return Capability(False, (*evidence, f"Linux {_dotted(facts)} is older than this mode"))
    name = old_symbol if old and old_symbol and not facts.config.mentions(symbol) else symbol
    value = facts.config.value(name)
    capable = value == "y" and facts.config_is_of_this_kernel
    if not facts.config_is_of_this_kernel:
        evidence.append(f"{_config_name(facts)} is of Linux {facts.config.release}")
    shown = value or "not named"
    return Capability(capable, (*evidence, f"{_config_name(facts)}: CONFIG_{name} is {shown}"))


def _disagreement(facts: ImageFacts, evidence: list[str], symbol: str, *, found: bool) -> None:
    """Add what the configuration says; where it contradicts the image, the image wins."""
    if facts.config is None:
        return
    if not facts.config.mentions(symbol):
        old = symbol == "XEN_PV" and facts.version is not None and facts.version < XEN_PV_SINCE
        if not old or not facts.config.mentions("XEN"):
            return
        symbol = "XEN"
    value = facts.config.value(symbol)
    said = " is not set" if value == "n" else f"={value}"
    evidence.append(f"{_config_name(facts)}: CONFIG_{symbol}{said}")
    if (value == "y") != found and symbol != "XEN":
        evidence.append("the configuration contradicts the image; the image was believed")


def _config_name(facts: ImageFacts) -> str:
    return facts.config.name.rsplit("/", 1)[-1] if facts.config else "no configuration"


def _dotted(facts: ImageFacts) -> str:
    return ".".join(map(str, facts.version or ()))
