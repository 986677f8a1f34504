"""What a kernel, with its initrd and configuration, can boot as under Xen.

The image is believed first, the configuration adds what the image cannot show.
"""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import CapabilityError, SpecError
from imagekit.kernel import verdicts
from imagekit.kernel.facts import ImageFacts, gather
from imagekit.kernel.image import KernelImage, load_kernel
from imagekit.kernel.initrd import DRIVER_SYMBOLS, Driver, Initrd, read_initrd
from imagekit.kernel.kconfig import KernelConfig, load_config
from imagekit.kernel.report import Capability, InitrdReport, KernelReport

MODES = ("pv", "pvh", "hvm")

_CONFIG_SYMBOLS = (
    "XEN",
    "XEN_PV",
    "XEN_PVH",
    "PVH",
    "XEN_PVHVM",
    "XEN_PVHVM_GUEST",
    "XEN_BLKDEV_FRONTEND",
    "XEN_NETDEV_FRONTEND",
    "HVC_XEN",
    "X86_XEN",
    "X86_64_XEN",
)
_SYMBOLS = {"xen_blkfront": "Blkfront", "xen_netfront": "Netfront"}


def examine(
    kernel: Path, *, initrd: Path | None = None, config: Path | None = None
) -> KernelReport:
    """Read ``kernel`` and what comes with it; raises SpecError (unreadable path), ImageError.

    In this process: files of strangers are for :mod:`imagekit.kernel.reading`.
    """
    return judge(
        load_kernel(kernel),
        initrd=read_initrd(initrd) if initrd else None,
        config=load_config(config) if config else None,
    )


def judge(
    image: KernelImage, *, initrd: Initrd | None = None, config: KernelConfig | None = None
) -> KernelReport:
    """The report on an image that was read before."""
    facts = gather(image, config)
    initrd_report = _initrd_report(facts, initrd) if initrd else None
    drivers, evidence = _pvhvm(facts, initrd_report)
    return KernelReport(
        name=image.name,
        pv=verdicts.pv(facts),
        pvh=verdicts.pvh(facts),
        hvm=verdicts.hvm(facts),
        pvhvm_drivers=drivers,
        pvhvm_evidence=evidence,
        arch=image.arch,
        release=image.release or (config.release if config else None),
        compression=image.compression,
        container=image.container,
        payload_error=image.payload_error,
        dom0_loader=verdicts.dom0_loader(facts),
        initrd=initrd_report,
        config=_config_facts(config),
        unplugs_disks=_unplugs_disks(facts),
    )


def modes(report: KernelReport, *, needs_disk: bool = True) -> dict[str, Capability]:
    """Which modes may be offered for this kernel with this initrd.

    Stricter than the kernel's own verdicts: dom0 must be able to unpack it (PV, PVH) and, where the
    root is a disk (``needs_disk``; an installer's initrd fetches its driver later), the initrd must
    find that disk.
    """
    return {mode: _mode(report, mode, needs_disk=needs_disk) for mode in MODES}


def require_mode(report: KernelReport, mode: str, *, needs_disk: bool = True) -> Capability:
    """The evidence for ``mode``; raises CapabilityError with the evidence against it, SpecError."""
    if mode not in MODES:
        raise SpecError(f"{mode!r} is not a mode", hint="use one of " + ", ".join(MODES))
    offered = modes(report, needs_disk=needs_disk)
    if offered[mode].capable:
        return offered[mode]
    others = [name for name, verdict in offered.items() if verdict.capable]
    raise CapabilityError(
        f"this kernel cannot boot as {mode.upper()}: " + "; ".join(offered[mode].evidence),
        where=report.name,
        hint=f"it can boot as {' or '.join(others)}; ask for that or choose another kernel"
        if others
        else "choose another kernel, or make its initrd again with xen-blkfront in it",
    )


def _mode(report: KernelReport, mode: str, *, needs_disk: bool) -> Capability:
    verdict: Capability = {"pv": report.pv, "pvh": report.pvh, "hvm": report.hvm}[mode]
    capable, evidence = verdict.capable, list(verdict.evidence)
    if mode != "hvm":
        evidence.extend(report.dom0_loader.evidence)
        capable = capable and report.dom0_loader.can_unpack is not False
    if needs_disk and report.initrd is not None:
        driver = report.initrd.xen_blkfront
        evidence.append(driver.evidence)
        if driver.state == "missing" and (mode != "hvm" or report.unplugs_disks):
            capable = False
            evidence.append(
                "the root disk would not be found"
                if mode != "hvm"
                else "the kernel unplugs the emulated disks, so no disk would be found"
            )
    return Capability(capable, tuple(evidence))


def _config_facts(config: KernelConfig | None) -> dict[str, str]:
    values = {name: config.value(name) for name in _CONFIG_SYMBOLS} if config else {}
    return {f"CONFIG_{name}": value for name, value in values.items() if value is not None}


def _initrd_report(facts: ImageFacts, initrd: Initrd) -> InitrdReport:
    return InitrdReport(
        name=initrd.name,
        xen_blkfront=_driver(facts, initrd, "xen_blkfront", builtin=facts.blkfront_builtin),
        xen_netfront=_driver(facts, initrd, "xen_netfront", builtin=facts.netfront_builtin),
        init_system=initrd.init_system,
        segments=initrd.segments,
        modules=len(initrd.modules),
        problems=initrd.problems,
    )


def _driver(facts: ImageFacts, initrd: Initrd, name: str, *, builtin: bool) -> Driver:
    """The initrd's answer, completed by what the kernel image itself shows."""
    found = initrd.has_driver(name, kernel_config=facts.config)
    release = facts.image.release
    if found.state == "module" and release and initrd.releases and release not in initrd.releases:
        others = ", ".join(sorted(initrd.releases)[:3])
        return Driver("missing", f"{initrd.name} has modules for {others}, not for {release}")
    if found.state in ("module", "builtin"):
        return found
    if builtin:
        return Driver("builtin", f"{name} is compiled into the kernel image")
    if found.state == "unknown" and initrd.complete and facts.image.payload is not None:
        return Driver("missing", f"{initrd.name} has no module {name}, nor has the kernel image")
    return found


def _unplugs_disks(facts: ImageFacts) -> bool | None:
    """Linux unplugs emulated IDE disks whenever blkfront was built (platform-pci-unplug.c)."""
    if facts.unplugs_disks is not None:
        return facts.unplugs_disks
    core = facts.config_says("XEN_PVHVM")
    front = facts.config_says("XEN_BLKDEV_FRONTEND")
    return None if core is None or front is None else core == "y" and front != "n"


def _pvhvm(facts: ImageFacts, initrd: InitrdReport | None) -> tuple[bool | None, tuple[str, ...]]:
    """Whether an HVM guest gets Xen's own disk and network, and why."""
    core, core_evidence = _pvhvm_core(facts)
    evidence = [core_evidence]
    if not core:
        return core, tuple(evidence)
    answers = [
        _frontend(facts, "xen_blkfront", evidence, compiled=facts.unplugs_disks),
        _frontend(facts, "xen_netfront", evidence, compiled=facts.unplugs_nics),
    ]
    if initrd is not None and initrd.xen_blkfront.state == "missing" and answers[0] is not False:
        evidence.append(f"{initrd.xen_blkfront.evidence}: the root disk would not be found")
        return False, tuple(evidence)
    if False in answers:
        return False, tuple(evidence)
    return (None if None in answers else True), tuple(evidence)


def _pvhvm_core(facts: ImageFacts) -> tuple[bool | None, str]:
    if facts.says_pvhvm is not None:
        verb = "holds" if facts.says_pvhvm else "lacks"
        return facts.says_pvhvm, f"the kernel {verb} Xen's HVM guest code (CONFIG_XEN_PVHVM)"
    value = facts.config_says("XEN_PVHVM")
    if value is None or not facts.config_is_of_this_kernel:
        return None, "neither the image nor a configuration shows CONFIG_XEN_PVHVM"
    return value == "y", f"the configuration has CONFIG_XEN_PVHVM={value}"


def _frontend(
    facts: ImageFacts, name: str, evidence: list[str], *, compiled: bool | None
) -> bool | None:
    """Whether a frontend was built with this kernel, as a module or into it."""
    if compiled:
        evidence.append(f"{_SYMBOLS[name]} was built with this kernel (its unplug message)")
        return True
    symbol = DRIVER_SYMBOLS[name]
    value = facts.config_says(symbol)
    if value is not None and facts.config_is_of_this_kernel:
        evidence.append(f"the configuration has CONFIG_{symbol}={value}")
        return value != "n"
    if compiled is False:
        evidence.append(f"{_SYMBOLS[name]} was not built with this kernel (no unplug message)")
        return False
    evidence.append(f"nothing shows whether {name} was built with this kernel")
    return None
