"""Domains of an installation that a Xen host runs itself: while installing, and ever after.

Sources: xl.cfg(5) (boot, on_reboot, bootloader, bootloader_args), libxl_bootloader.c.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagekit.domain.bootpath import CONSOLES, domain_for
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView
from imagekit.domain.model import Boot, DirectKernel, Disk, Domain, Firmware, Mode
from imagekit.domain.model import Netboot as NetbootProgram
from imagekit.domain.text import refuse
from imagekit.installs.build_facts import facts_for, trial_image
from imagekit.kernel.capability import require_mode
from imagekit.kernel.reading import examine
from imagekit.kernel.report import Bootable, Capability, bootable
from imagekit.spec.derived import effective_disk
from imagekit.spec.model import Spec
from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.registry import emitter_for

PYPXEBOOT = "/usr/bin/pypxeboot"
_ISOLINUX = re.compile(r"(isolinux|syslinux|extlinux)\.cfg$")


def kernel_files(spec: Spec) -> tuple[str, str]:
    """Names of the installer's kernel and initrd in the build directory."""
    return f"{spec.name}-installer-vmlinuz", f"{spec.name}-installer-initrd.img"


def installer_evidence(kernel: Path, initrd: Path, modes: Sequence[Mode]) -> Bootable:
    """What the installer's kernel can boot as; CapabilityError for a mode that it cannot.

    HVM is left to the firmware: every installer that boots a PC boots there.
    """
    report = examine(kernel, initrd=initrd)
    for mode in modes:
        if mode != "hvm":
            require_mode(report, mode)
    by_firmware = Capability(True, ("the installer boots by firmware",))
    return replace(bootable(report), hvm=by_firmware)


def expected_facts(spec: Spec, kernel: Bootable, *, uefi: bool, out: Path) -> BuildFacts:
    """What the guest will be once its installer has run; ``out`` holds its disk, ``NAME.raw``.

    The boot paths follow from how our answers partition the disk, not from an image.
    """
    facts = facts_for(spec, kernel, trial_image(spec))
    readable = facts.boot_filesystem.startswith("ext")
    facts = replace(
        facts,
        disks=(DiskFacts({"raw": f"{spec.name}.raw"}, effective_disk(spec.disk).size),),
        pygrub=PygrubView(readable, f"the installer makes /boot {facts.boot_filesystem}"),
        kernel=None,
        initrd=None,
        bootloader_bios=not uefi,
        bootloader_uefi=uefi,
    )
    return facts.located(str(out))


def text(domain: Domain, facts: BuildFacts, toolstack: str) -> str:
    """The config of ``domain`` in the words of ``toolstack``."""
    return emitter_for(toolstack).text(domain, facts)


def final_domain(facts: BuildFacts, mode: Mode) -> Domain:
    """The guest as it boots its own disk."""
    return domain_for(facts, mode=mode, toolstack="xl")


def iso_domain(
    facts: BuildFacts, mode: Mode, *, iso: str, kernel: str, initrd: str, args: str, memory: int
) -> Domain:
    """The guest while the installer on ``iso`` runs in it; absolute paths, ``memory`` in MiB.

    HVM boots the CD; PV and PVH boot the ISO's kernel and initrd with ``args``. A domain whose
    installer reboots or crashes is kept, so that this can be told from one that powered off.
    """
    domain = final_domain(facts, mode)
    boot: Boot
    if mode == "hvm":
        boot = Firmware("uefi" if facts.bootloader_uefi else "bios", "dc")
    else:
        boot = DirectKernel(kernel, initrd, with_consoles(args, mode))
    disc = Disk(iso, "raw", "hdc" if mode == "hvm" else "xvdc", readonly=True, cdrom=True)
    return replace(
        domain,
        boot=boot,
        disks=(*domain.disks, disc),
        memory_mib=memory,
        maxmem_mib=None,
        on_poweroff="destroy",
        on_reboot="preserve",
        on_crash="preserve",
    )


def netboot_domain(facts: BuildFacts, mode: Mode, toolstack: Toolstack[Any]) -> Domain:
    """The guest that asks the boot server at every start; the server flips it, not its config.

    PV and PVH run pypxeboot in dom0, HVM has the PXE ROM of its first card. Raises SpecError for a
    NIC that cannot.
    """
    domain = domain_for(facts, mode=mode, toolstack=toolstack.name)
    nic = domain.nics[0]
    if mode == "hvm":
        if nic.type == "vif":
            refuse("only an emulated card has a PXE ROM", "nics.0.type", "leave type out")
        return replace(domain, boot=Firmware("bios", "n"))
    if toolstack.netboots == "profile":
        args: tuple[str, ...] = (f"--profile={domain.name}",)
    elif toolstack.netboots == "convention":
        args = ()  # ncm-xen, for one, then hands over the text of the first NIC
    else:
        args = (f"--mac={nic.mac}",)
        args += (f"--interface={nic.bridge}",) if nic.bridge else ()
    return replace(domain, boot=NetbootProgram(PYPXEBOOT, args))


def profile(domain: Domain) -> str:
    """pypxeboot's profile of ``domain``, for libvirt, which hands over one argument only."""
    nic = domain.nics[0]
    lines = [f'["{domain.name}"]', f'mac = "{nic.mac}"']
    lines += [f'interface = "{nic.bridge}"'] if nic.bridge else []
    return "\n".join([*lines, ""])


def menu_arguments(path: str, line: str) -> str:
    """The installer's kernel arguments, as a boot menu at ``path`` has them in its own quoting.

    What follows ``---``, meant for the installed system, stays out, and so do consoles.
    """
    words = line.split() if _ISOLINUX.search(path) else shlex.split(line)
    if "---" in words:
        words = words[: words.index("---")]
    return " ".join(f'"{w}"' if " " in w else w for w in words)


def with_consoles(args: str, mode: Mode) -> str:
    """``args`` with the consoles of ``mode`` in place of others."""
    words = [w for w in args.split(" ") if not w.startswith("console=")]
    return " ".join([*words, CONSOLES[mode]])
