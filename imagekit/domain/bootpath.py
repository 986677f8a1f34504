"""From a built image to a domain: which boot paths it has in a mode, and the best of them.

A path is offered only with evidence: the kernel's verdict for the mode, what pygrub sees, a
grub.cfg, boot code for the firmware.
"""

from __future__ import annotations

from typing import Literal, NoReturn

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Boot, Disk, DiskFormat, Domain, FirmwareKind, Mode, Nic, RawValue
from imagekit.domain.nicrules import BRIDGE_SCRIPTS, ROUTED_SCRIPTS
from imagekit.domain.rules import MAX_CMDLINE_BYTES
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError

BootChoice = Literal["pygrub", "pvgrub", "direct", "firmware"]
BootName = Literal["auto", "pygrub", "pvgrub", "direct", "firmware"]
BootPath = tuple[BootChoice, bool, str]
"""A boot path, whether the image has it, and why (not)."""

ORDER: dict[Mode, tuple[BootChoice, ...]] = {
    "pv": ("pygrub", "pvgrub", "direct"),
    "pvh": ("direct", "pygrub", "pvgrub"),
    "hvm": ("firmware", "direct"),
}
"""What ``auto`` tries, in order. HVM by direct kernel is taken only when asked for."""

CONSOLES: dict[Mode, str] = {
    "pv": "console=hvc0",
    "pvh": "console=hvc0",
    "hvm": "console=tty0 console=ttyS0,115200n8",
}
"""hvc0 is xl console's; on HVM the emulated serial port is, and tty0 the VNC screen."""

PVGRUB_IMAGES: dict[tuple[Mode, str], str] = {
    ("pv", "x86_64"): "/usr/lib/grub-xen/grub-x86_64-xen.bin",
    ("pv", "i386"): "/usr/lib/grub-xen/grub-i386-xen.bin",
    ("pvh", "x86_64"): "/usr/lib/grub-xen/grub-i386-xen_pvh.bin",
    ("pvh", "i386"): "/usr/lib/grub-xen/grub-i386-xen_pvh.bin",
}
"""Debian's package grub-xen-host. A PV image must have the guest kernel's word size."""

UNREADABLE_BY_PYGRUB = ("btrfs", "lvm", "luks", "f2fs")
"""Beyond these it reads some variants only (XFS v4, ext4 without bigalloc): see PygrubView."""

DEFAULT_BRIDGE = "xenbr0"


def boot_paths(facts: BuildFacts, mode: Mode) -> list[BootPath]:
    """Every boot path of ``mode``, the preferred first: (path, whether it works, why)."""
    checks = {
        "pygrub": _pygrub,
        "pvgrub": _pvgrub,
        "direct": _direct,
        "firmware": _firmware,
    }
    paths: list[BootPath] = []
    for path in ORDER[mode]:
        ok, reason = checks[path](facts, mode)
        paths.append((path, ok, reason))
    return paths


def domain_for(
    facts: BuildFacts,
    *,
    mode: Mode,
    boot: BootName = "auto",
    image_format: DiskFormat | None = None,
    firmware: FirmwareKind | None = None,
    toolstack: str | None = None,
) -> Domain:
    """The domain that boots the image of ``facts`` in ``mode``.

    ``facts`` must hold absolute paths. ``image_format`` None takes raw, else the first format that
    was made. ``firmware`` picks BIOS or UEFI where the image has both (default BIOS).
    ``toolstack`` picks whose ``raw`` settings go along. Raises CapabilityError, with the evidence
    and the alternative, for a mode, a boot path or a format the image does not have; SpecError for
    a machine that cannot exist.
    """
    verdict = facts.verdict(mode)
    if not verdict.capable:
        _refuse_mode(facts, mode)
    path = _choose(facts, mode, boot)
    if facts.graphics_password and (facts.graphics is None or facts.graphics.password is None):
        refuse(
            "the screen was asked for with a password, which is not kept with the build",
            "graphics.password",
            "give it again with --vnc-password-file",
        )
    raw = facts.raw.get(toolstack or "", {})
    return Domain(
        name=facts.name,
        uuid=facts.uuid,
        mode=mode,
        memory_mib=facts.memory_mib,
        maxmem_mib=facts.maxmem_mib,
        vcpus=facts.vcpus,
        maxvcpus=facts.maxvcpus,
        arch=facts.arch,
        boot=_boot(facts, mode, path, firmware),
        disks=_disks(facts, image_format),
        nics=tuple(_nic(nic, mode) for nic in facts.nics),
        graphics=facts.graphics,
        serial="pty" if mode == "hvm" else None,
        on_poweroff=facts.on_poweroff,
        on_reboot=facts.on_reboot,
        on_crash=facts.on_crash,
        cpu=facts.cpu,
        raw=raw_settings(raw),
    )


def notes(domain: Domain) -> list[str]:
    """What dom0 must have or do for ``domain``, one sentence each; nothing is wrong with it."""
    found = []
    first = domain.disks[0] if domain.disks else None
    if isinstance(domain.boot, model.Pygrub | model.Netboot) and first and first.format != "raw":
        found.append(
            f"before {first.target} boots, dom0 attaches it to itself, because the bootloader "
            f"reads raw disks only: dom0 needs xen-blkfront and qemu-system-xen"
        )
    elif any(d.format != "raw" or d.backend == "qdisk" for d in domain.disks):
        found.append("a disk is served by QEMU: dom0 needs qemu-system-xen")
    if isinstance(domain.boot, model.Pvgrub):
        found.append(f"dom0 needs {domain.boot.image_path} (package grub-xen-host)")
    if isinstance(domain.boot, model.Firmware) and domain.boot.kind == "uefi":
        found.append("dom0 needs OVMF (package ovmf)")
    if any(nic.ips and nic.script in (None, "vif-bridge") for nic in domain.nics):
        found.append("vif-bridge as Debian ships it does not keep a guest to its ip")
    return found


def raw_settings(raw: object) -> tuple[tuple[str, RawValue], ...]:
    """``raw:`` of a spec (a mapping of YAML or JSON values) as the model's settings.

    A value is text, a whole number, a truth value (1 or 0), a list of those, or a list of such
    lists; anything else, or a key that is not text, is a SpecError. They are values, never config
    text.
    """
    if not isinstance(raw, dict):
        refuse("is not a mapping of keys to values", "raw")
    settings: list[tuple[str, RawValue]] = []
    for key, value in raw.items():
        if not isinstance(key, str):
            refuse(f"{key!r} is not a key", "raw")
        if isinstance(value, list | tuple):
            settings.append((key, tuple(_raw_list_item(item, key) for item in value)))
        else:
            settings.append((key, _raw_item(value, key)))
    return tuple(settings)


def _raw_list_item(value: object, key: str) -> str | int | tuple[str | int, ...]:
    if isinstance(value, list | tuple):
        return tuple(_raw_item(item, key) for item in value)
    return _raw_item(value, key)


def _raw_item(value: object, key: str) -> str | int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int):
        return value
    refuse(f"{value!r} is neither text, a whole number nor a list of them", f"raw.{key}")


def _refuse_mode(facts: BuildFacts, mode: Mode) -> NoReturn:
    evidence = "; ".join(facts.verdict(mode).evidence) or "nothing shows that it can"
    others = [m for m in model.MODES if facts.verdict(m).capable]
    raise CapabilityError(
        f"the image of {facts.name} cannot boot as {mode}: {evidence}",
        where="mode",
        hint=f"it can boot as {' or '.join(others)}" if others else "its kernel suits no mode",
    )


def _choose(facts: BuildFacts, mode: Mode, boot: BootName) -> BootChoice:
    paths = boot_paths(facts, mode)
    working = [path for path, ok, _ in paths if ok]
    if boot == "auto":
        automatic = [path for path in working if mode != "hvm" or path == "firmware"]
        if automatic:
            return automatic[0]
        reasons = "; ".join(f"{path}: {reason}" for path, ok, reason in paths if not ok)
        raise CapabilityError(
            f"the image of {facts.name} has no boot path as {mode}: {reasons}",
            where="boot",
            hint=_alternative(working),
        )
    for path, ok, reason in paths:
        if path == boot:
            if ok:
                return path
            raise CapabilityError(
                f"the image of {facts.name} cannot boot as {mode} through {boot}: {reason}",
                where="boot",
                hint=_alternative(working),
            )
    raise CapabilityError(
        f"{mode} does not boot through {boot}", where="boot", hint=_alternative(working)
    )


def _alternative(working: list[BootChoice]) -> str:
    if not working:
        return "imagekit inspect tells what the image holds"
    return f"it can boot through {' or '.join(working)} (--boot {working[0]})"


def _pygrub(facts: BuildFacts, _mode: Mode) -> tuple[bool, str]:
    if facts.pygrub.ok and facts.boot_filesystem.lower() in UNREADABLE_BY_PYGRUB:
        return False, f"pygrub has no reader for {facts.boot_filesystem}"
    return facts.pygrub.ok, facts.pygrub.reason


def _pvgrub(facts: BuildFacts, mode: Mode) -> tuple[bool, str]:
    if facts.grub_config is None:
        return False, "the image has no grub.cfg that GRUB could read"
    if (mode, facts.arch) not in PVGRUB_IMAGES:
        return False, f"there is no GRUB for Xen on {facts.arch}"
    return True, f"GRUB reads {facts.grub_config}"


def _direct(facts: BuildFacts, mode: Mode) -> tuple[bool, str]:
    if facts.kernel is None:
        return False, "no kernel was copied out of the image"
    size = len(_cmdline(facts, mode).encode())
    if size > MAX_CMDLINE_BYTES:
        return False, f"the command line has {size} bytes, and Xen passes {MAX_CMDLINE_BYTES}"
    return True, f"kernel {facts.kernel_release or facts.kernel}"


def _firmware(facts: BuildFacts, _mode: Mode) -> tuple[bool, str]:
    kinds = [
        name
        for name, there in (("BIOS", facts.bootloader_bios), ("UEFI", facts.bootloader_uefi))
        if there
    ]
    if not kinds:
        return False, "the image has neither boot code for BIOS nor an EFI boot loader"
    return True, f"the image has a boot loader for {' and '.join(kinds)}"


def _cmdline(facts: BuildFacts, mode: Mode) -> str:
    return f"{facts.cmdline} {CONSOLES[mode]}".strip()


def _boot(facts: BuildFacts, mode: Mode, path: BootChoice, firmware: FirmwareKind | None) -> Boot:
    if path == "pygrub":
        return model.Pygrub()
    if path == "pvgrub":
        return model.Pvgrub(PVGRUB_IMAGES[mode, facts.arch])
    if path == "direct":
        return model.DirectKernel(facts.kernel or "", facts.initrd, _cmdline(facts, mode))
    has = {"bios": facts.bootloader_bios, "uefi": facts.bootloader_uefi}
    kind = firmware or ("bios" if facts.bootloader_bios else "uefi")
    if not has[kind]:
        other = "uefi" if kind == "bios" else "bios"
        raise CapabilityError(
            f"the image of {facts.name} has no boot loader for {kind.upper()}",
            where="boot",
            hint=f"it boots through {other.upper()}",
        )
    return model.Firmware(kind, "c")


def _disks(facts: BuildFacts, image_format: DiskFormat | None) -> tuple[Disk, ...]:
    disks = []
    for position, disk in enumerate(facts.disks):
        made = list(disk.paths)
        wanted = image_format or ("raw" if "raw" in made or not made else made[0])
        if wanted not in disk.paths:
            raise CapabilityError(
                f"disk {position} of {facts.name} was not built as {wanted}",
                where="format",
                hint=f"there is {', '.join(made)}; imagekit convert makes others"
                if made
                else "the build holds no disk",
            )
        disks.append(Disk(disk.paths[wanted], wanted, disk.vdev, disk.readonly))
    return tuple(disks)


def _nic(nic: Nic, mode: Mode) -> Nic:
    """The NIC as ``mode`` has it: a card only on HVM, a bridge only for scripts that use one."""
    bridge, kind, card = nic.bridge, nic.type, nic.model
    script = (nic.script or "vif-bridge").rsplit("/", 1)[-1]
    if script in ROUTED_SCRIPTS:
        bridge = None
    elif bridge is None and script in BRIDGE_SCRIPTS:
        bridge = DEFAULT_BRIDGE
    if mode != "hvm":
        kind, card = None, None
    return model.Nic(
        nic.mac, bridge, nic.ips, card, nic.script, nic.rate, kind, nic.gatewaydev, nic.name
    )
