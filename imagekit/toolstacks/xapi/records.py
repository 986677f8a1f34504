"""A domU as XAPI's records see it: VM, VBDs and VIFs, shared by xe, XenAPI and XVA.

Source: xapi-project/xen-api, ``ocaml/idl/datamodel_vm.ml``, ``datamodel.ml`` (VBD, VIF) and
``ocaml/xapi/xapi_xenops.ml``. Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from imagekit.domain import model
from imagekit.domain.model import Action, Domain, Nic
from imagekit.domain.text import refuse
from imagekit.domain.vdev import parse_vdev

MIB = 1024 * 1024
GUEST_KERNELS = "/var/lib/xcp/guest"
"""The only directory of dom0 XAPI takes a guest's kernel from, since 24.20.0 (xenopsd)."""

Value = str | int | bool | float | Mapping[str, str] | tuple[str, ...]
KernelCopies = Literal["made", "refused"]

_NORMAL: Mapping[Action, str] = {"destroy": "destroy", "restart": "restart"}
_CRASH: Mapping[Action, str] = {
    "destroy": "destroy",
    "restart": "restart",
    "preserve": "preserve",
    "rename-restart": "rename_restart",
    "coredump-destroy": "coredump_and_destroy",
    "coredump-restart": "coredump_and_restart",
}
_MAX_DEVICE = 254


@dataclass(frozen=True)
class Member:
    """One field of a record: its API name, its value, and the domain's field it words."""

    key: str
    value: Value
    field: str = ""


@dataclass(frozen=True)
class Vbd:
    """A disk of the VM. ``position`` counts the domain's disks; ``empty`` is a CD-ROM drive."""

    position: int
    userdevice: str
    bootable: bool
    readonly: bool
    empty: bool


@dataclass(frozen=True)
class Vif:
    """A NIC of the VM. ``kbps`` is in KiB per second, granted every ``timeslice_us``."""

    device: str
    mac: str
    bridge: str
    kbps: int | None = None
    timeslice_us: int | None = None
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()

    @property
    def qos(self) -> dict[str, str]:
        """The parameters of the algorithm ``ratelimit``; empty without a limit."""
        if self.kbps is None:
            return {}
        return {"kbps": str(self.kbps), "timeslice_us": str(self.timeslice_us)}


@dataclass(frozen=True)
class Copy:
    """A file that has to be copied into dom0 before the VM starts."""

    source: str
    target: str
    field: str


@dataclass(frozen=True)
class Machine:
    """A VM's own fields, what hangs on it, and the files dom0 must have."""

    vm: tuple[Member, ...]
    vbds: tuple[Vbd, ...]
    vifs: tuple[Vif, ...]
    copies: tuple[Copy, ...] = ()


def machine(domain: Domain, *, kernels: KernelCopies = "refused") -> Machine:
    """``domain`` for XAPI; raises SpecError for what it cannot express.

    Kernels outside of dom0's ``/var/lib/xcp/guest`` are ``refused``, or a copy there is ``made``
    part of the result.
    """
    if domain.raw:
        refuse(
            "XAPI has fields, not a config to add to",
            f"raw.{domain.raw[0][0]}",
            "set it with xe vm-param-set once the VM is there",
        )
    _check_screen(domain)
    boot, copies = _boot(domain, kernels)
    members = (
        Member("name_label", domain.name, "name"),
        *_memory(domain),
        Member("VCPUs_max", domain.maxvcpus or domain.vcpus, "maxvcpus"),
        Member("VCPUs_at_startup", domain.vcpus, "vcpus"),
        Member("VCPUs_params", _cpu(domain), "cpu"),
        Member("actions_after_shutdown", _action(domain, "on_poweroff", _NORMAL), "on_poweroff"),
        Member("actions_after_reboot", _action(domain, "on_reboot", _NORMAL), "on_reboot"),
        Member("actions_after_crash", _action(domain, "on_crash", _CRASH), "on_crash"),
        *boot,
        Member("domain_type", domain.mode, "mode"),
        Member("platform", _platform(domain), "mode"),
    )
    return Machine(members, _vbds(domain), _vifs(domain), copies)


def _memory(domain: Domain) -> list[Member]:
    size = domain.memory_mib * MIB
    most = (domain.maxmem_mib or domain.memory_mib) * MIB
    return [
        Member("memory_static_max", most, "maxmem_mib"),
        Member("memory_dynamic_max", size, "memory_mib"),
        Member("memory_dynamic_min", size, "memory_mib"),
        Member("memory_static_min", size, "memory_mib"),
    ]


def _cpu(domain: Domain) -> dict[str, str]:
    params = {}
    if domain.cpu.weight is not None:
        params["weight"] = str(domain.cpu.weight)
    if domain.cpu.cap is not None:
        params["cap"] = str(domain.cpu.cap)
    if domain.cpu.pins:
        params["mask"] = ",".join(map(str, domain.cpu.pins))
    return params


def _action(
    domain: Domain,
    field: Literal["on_poweroff", "on_reboot", "on_crash"],
    words: Mapping[Action, str],
) -> str:
    action: Action = getattr(domain, field)
    if action not in words:
        refuse(f"XAPI cannot {action} a VM then", field, f"one of {', '.join(words)}")
    return words[action]


def _platform(domain: Domain) -> dict[str, str]:
    settings = {"nx": "true", "acpi": "1", "apic": "true", "pae": "true"}
    if domain.mode == "hvm":
        settings["hvm_serial"] = domain.serial or "none"
        if domain.graphics is not None and domain.graphics.keymap is not None:
            settings["keymap"] = domain.graphics.keymap
        if isinstance(domain.boot, model.Firmware) and domain.boot.kind == "uefi":
            settings["device-model"] = "qemu-upstream-uefi"
    return settings


def _check_screen(domain: Domain) -> None:
    vnc = domain.graphics
    if vnc is None:
        return
    hint = "leave it out: XAPI shows every VM's screen to those it lets in"
    if vnc.password is not None:
        refuse("XAPI has no password for a screen", "graphics.password", hint)
    if vnc.display is not None:
        refuse("XAPI numbers the screens itself", "graphics.display", hint)
    if vnc.listen != "127.0.0.1":
        refuse("XAPI does not open a screen to a network", "graphics.listen", hint)
    if vnc.keymap is not None and domain.mode != "hvm":
        refuse("XAPI has a keymap for HVM only", "graphics.keymap", "leave it out")


def _boot(domain: Domain, kernels: KernelCopies) -> tuple[tuple[Member, ...], tuple[Copy, ...]]:
    boot = domain.boot
    if isinstance(boot, model.Firmware):
        if "a" in boot.boot_order:
            refuse("XAPI's VMs have no floppy", "boot.boot_order", "letters of c, d, n")
        params = {"order": boot.boot_order, "firmware": boot.kind}
        return _members(policy="BIOS order", params=params), ()
    if domain.mode == "hvm":
        refuse("XAPI boots HVM through firmware only", "boot", "install GRUB into the image")
    if isinstance(boot, model.Netboot):
        refuse(
            f"XAPI runs no bootloader but pygrub, not {boot.program}",
            "boot.program",
            "boot over the network as HVM, or through pygrub",
        )
    if isinstance(boot, model.Pygrub):
        for item in boot.args:
            if not item or " " in item:
                refuse(f"XAPI splits the argument {item!r} at its blanks", "boot.args", "no blanks")
        return _members(bootloader="pygrub", arguments=" ".join(boot.args)), ()
    copies = []
    paths = {"kernel": "", "initrd": ""}
    wanted = (
        [("kernel", boot.image_path, "boot.image_path")]
        if isinstance(boot, model.Pvgrub)
        else [("kernel", boot.kernel, "boot.kernel"), ("initrd", boot.initrd, "boot.initrd")]
    )
    for role, path, field in wanted:
        if path is not None:
            paths[role] = _guest_kernel(domain, role, path, field, kernels)
            if paths[role] != path:
                copies.append(Copy(path, paths[role], field))
    cmdline = boot.cmdline if isinstance(boot, model.DirectKernel) else ""
    return (
        _members(kernel=paths["kernel"], ramdisk=paths["initrd"], cmdline=cmdline),
        tuple(copies),
    )


def _guest_kernel(domain: Domain, role: str, path: str, field: str, kernels: KernelCopies) -> str:
    if PurePosixPath(path).is_relative_to(GUEST_KERNELS):
        return path
    if kernels == "refused":
        refuse(
            f"XAPI takes a guest's kernel from {GUEST_KERNELS} in dom0 only, not {path}",
            field,
            "copy it there and name that path, or boot through pygrub",
        )
    return f"{GUEST_KERNELS}/{domain.name}/{role}"


def _members(
    *,
    bootloader: str = "",
    arguments: str = "",
    kernel: str = "",
    ramdisk: str = "",
    cmdline: str = "",
    policy: str = "",
    params: Mapping[str, str] | None = None,
) -> tuple[Member, ...]:
    return (
        Member("PV_bootloader", bootloader, "boot"),
        Member("PV_bootloader_args", arguments, "boot.args"),
        Member("PV_kernel", kernel, "boot.kernel"),
        Member("PV_ramdisk", ramdisk, "boot.initrd"),
        Member("PV_args", cmdline, "boot.cmdline"),
        Member("PV_legacy_args", "", "boot"),
        Member("HVM_boot_policy", policy, "boot"),
        Member("HVM_boot_params", params or {}, "boot.boot_order"),
    )


def _vbds(domain: Domain) -> tuple[Vbd, ...]:
    found = []
    for position, disk in enumerate(domain.disks):
        where = f"disks[{position}]"
        vdev = parse_vdev(disk.vdev, f"{where}.vdev")
        if vdev.bus == "sd" or vdev.partition is not None or vdev.index > _MAX_DEVICE:
            refuse(
                f"XAPI numbers whole disks, and {disk.vdev} has no number",
                f"{where}.vdev",
                "take xvda, xvdb ...",
            )
        if disk.cdrom and disk.target is not None:
            refuse(
                "a CD-ROM image lives in an ISO repository of XAPI's",
                f"{where}.target",
                "leave the drive empty and insert it with xe vm-cd-insert",
            )
        found.append(
            Vbd(position, str(vdev.index), position == 0, disk.readonly, disk.target is None)
        )
    return tuple(found)


def _vifs(domain: Domain) -> tuple[Vif, ...]:
    return tuple(_vif(domain, nic, i) for i, nic in enumerate(domain.nics))


def _vif(domain: Domain, nic: Nic, position: int) -> Vif:
    where = f"nics[{position}]"
    for field in ("model", "gatewaydev", "name"):
        if getattr(nic, field) is not None:
            refuse("XAPI has no word for it", f"{where}.{field}", "leave it out")
    if nic.script not in (None, "vif-bridge") or nic.bridge is None:
        refuse(
            f"XAPI attaches NICs to networks, not by {nic.script}",
            f"{where}.script",
            "leave it out and name the bridge of the network",
        )
    if domain.mode == "hvm" and nic.type == "vif":
        refuse(
            "XAPI gives HVM an emulated card with every NIC",
            f"{where}.type",
            "leave it out: the guest uses the PV one anyway",
        )
    rate = nic.rate
    return Vif(
        str(position),
        nic.mac,
        nic.bridge,
        None if rate is None else max(1, round(rate.bytes_per_second / 1024)),
        None if rate is None else rate.interval_us,
        tuple(ip for ip in nic.ips if ":" not in ip),
        tuple(ip for ip in nic.ips if ":" in ip),
    )
