"""A domain as xl's JSON shows it, and the same shape computed from the model, for comparison.

The JSON leaves out what has libxl's default; both sides here are written out in full.
"""

from __future__ import annotations

from typing import Any

from imagekit.domain import model

SHUTDOWN = ("on_poweroff", "on_reboot", "on_crash")


def from_xl(config: dict[str, Any]) -> dict[str, Any]:
    """The comparable shape of xl's JSON."""
    created, build = config["c_info"], config["b_info"]
    hvm = build.get("type.hvm", {})
    sched = build.get("sched_params", {})
    shape = {
        "name": created["name"],
        "uuid": created["uuid"],
        "mode": created["type"],
        "memory_kib": build["target_memkb"],
        "maxmem_kib": build["max_memkb"],
        "vcpus": len(build["avail_vcpus"]),
        "maxvcpus": build["max_vcpus"],
        "kernel": build.get("kernel"),
        "initrd": build.get("ramdisk"),
        "cmdline": build.get("cmdline") or "",
        "bootloader": build.get("bootloader"),
        "bootloader_args": build.get("bootloader_args", []),
        "firmware": hvm.get("bios") or hvm.get("firmware"),
        "boot_order": hvm.get("boot"),
        "weight": sched.get("weight"),
        "cap": sched.get("cap"),
        "pins": _affinity(build.get("vcpu_hard_affinity", [])),
        "disks": [_disk(d) for d in config.get("disks", [])],
        "nics": [_nic(n) for n in config.get("nics", [])],
        "serial": hvm.get("serial"),
        "vnc": _vnc(config, hvm if created["type"] == "hvm" else None),
    }
    for key in SHUTDOWN:
        action = config.get(key, "destroy").replace("_", "-")
        shape[key] = "rename-restart" if action == "restart-rename" else action
    return shape


def _affinity(maps: list[list[int]]) -> list[int] | None:
    if not maps:
        return None
    assert all(one == maps[0] for one in maps)
    return maps[0]


def _disk(disk: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": disk.get("pdev_path"),
        "format": disk["format"],
        "vdev": disk["vdev"],
        "backend": disk.get("backend"),
        "readonly": not disk.get("readwrite", 0),
        "cdrom": bool(disk.get("is_cdrom", 0)),
    }


def _nic(nic: dict[str, Any]) -> dict[str, Any]:
    return {
        "mac": nic["mac"],
        "bridge": nic.get("bridge"),
        "ip": nic.get("ip"),
        "script": nic.get("script"),
        "model": nic.get("model"),
        "type": {"vif_ioemu": "ioemu"}.get(nic.get("nictype", ""), nic.get("nictype")),
        "rate": (nic.get("rate_bytes_per_interval", 0), nic.get("rate_interval_usecs", 0)),
        "gatewaydev": nic.get("gatewaydev"),
        "name": nic.get("ifname"),
    }


def _vnc(config: dict[str, Any], hvm: dict[str, Any] | None) -> dict[str, Any] | None:
    if hvm is None:
        screens = config.get("vfbs", [])
        assert len(screens) < 2
        if not screens:
            return None
        screen, keymap = screens[0]["vnc"], screens[0].get("keymap")
    else:
        screen, keymap = hvm["vnc"], hvm.get("keymap")
    if screen["enable"] != "True":
        return None
    unused = screen["findunused"] == "True"
    return {
        "listen": screen["listen"],
        "display": None if unused else screen.get("display", 0),
        "password": screen.get("passwd"),
        "keymap": keymap,
    }


def expected(domain: model.Domain) -> dict[str, Any]:
    """The same shape from the model."""
    boot = domain.boot
    direct = boot if isinstance(boot, model.DirectKernel) else None
    firmware = boot if isinstance(boot, model.Firmware) else None
    kernel = direct.kernel if direct else None
    bootloader: str | None = None
    arguments: tuple[str, ...] = ()
    if isinstance(boot, model.Pvgrub):
        kernel = boot.image_path
    elif isinstance(boot, model.Pygrub):
        bootloader, arguments = "pygrub", boot.args
    elif isinstance(boot, model.Netboot):
        bootloader, arguments = boot.program, boot.args
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "mode": domain.mode,
        "memory_kib": domain.memory_mib * 1024,
        "maxmem_kib": (domain.maxmem_mib or domain.memory_mib) * 1024,
        "vcpus": domain.vcpus,
        "maxvcpus": domain.maxvcpus or domain.vcpus,
        "kernel": kernel,
        "initrd": direct.initrd if direct else None,
        "cmdline": direct.cmdline if direct else "",
        "bootloader": bootloader,
        "bootloader_args": list(arguments),
        # "bios" is libxl's default and shows as nothing.
        "firmware": "ovmf" if firmware and firmware.kind == "uefi" else None,
        "boot_order": firmware.boot_order if firmware else None,
        "weight": domain.cpu.weight,
        "cap": domain.cpu.cap,
        "pins": list(domain.cpu.pins) or None,
        "disks": [_expected_disk(d) for d in domain.disks],
        "nics": [_expected_nic(n) for n in domain.nics],
        "serial": domain.serial,
        "vnc": _expected_vnc(domain.graphics),
        "on_poweroff": domain.on_poweroff,
        "on_reboot": domain.on_reboot,
        "on_crash": domain.on_crash,
    }


def _expected_disk(disk: model.Disk) -> dict[str, Any]:
    return {
        "target": disk.target,
        "format": "empty" if disk.target is None else disk.format,
        "vdev": disk.vdev,
        "backend": disk.backend,
        "readonly": disk.readonly,
        "cdrom": disk.cdrom,
    }


def _expected_nic(nic: model.Nic) -> dict[str, Any]:
    rate = (0, 0)
    if nic.rate is not None:
        granted = nic.rate.bytes_per_second * nic.rate.interval_us // 1_000_000
        rate = (granted, nic.rate.interval_us)
    return {
        "mac": nic.mac,
        "bridge": nic.bridge,
        "ip": " ".join(nic.ips) or None,
        "script": nic.script,
        "model": nic.model,
        "type": nic.type,
        "rate": rate,
        "gatewaydev": nic.gatewaydev,
        "name": nic.name,
    }


def _expected_vnc(vnc: model.Vnc | None) -> dict[str, Any] | None:
    if vnc is None:
        return None
    return {
        "listen": vnc.listen,
        "display": vnc.display,
        "password": vnc.password,
        "keymap": vnc.keymap,
    }


def assert_same_machine(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two shapes mean one machine, once what toolstacks leave to their defaults is written out.

    Back-ends are passed over (each toolstack has its own), and rates may differ by libvirt's
    rounding to KiB/s.
    """
    for a, b in zip(one["nics"], other["nics"], strict=True):
        assert abs(_per_second(a) - _per_second(b)) <= 1044, (a, b)
    assert _defaulted(one) == _defaulted(other)


def _defaulted(shape: dict[str, Any]) -> dict[str, Any]:
    default = "ioemu" if shape["mode"] == "hvm" else "vif"
    nics = [
        {
            **nic,
            "type": nic["type"] or default,
            "script": nic["script"] or "vif-bridge",
            "rate": nic["rate"][1],
        }
        for nic in shape["nics"]
    ]
    disks = [{**disk, "backend": None} for disk in shape["disks"]]
    return {**shape, "nics": nics, "disks": disks}


def _per_second(nic: dict[str, Any]) -> float:
    granted, interval = nic["rate"]
    return granted * 1_000_000 / interval if interval else 0.0
