"""xl.cfg, for xl and libxl of Xen 4.17 to 4.20.

Every value goes through :mod:`imagekit.toolstacks.literals`; disk and vif items are a second
grammar inside the string (xl-disk-configuration(5), xl-network-configuration(5)). A disk's
``target=`` comes last because it takes the rest of the item, commas and all but one at the end; it
is the only way to name such a path (``tools/libs/util/libxlu_disk_l.l``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain, Nic
from imagekit.domain.text import refuse
from imagekit.toolstacks.literals import literal, spec_value, string
from imagekit.toolstacks.output import Line, OutputFile, joined, permissions
from imagekit.toolstacks.screen import vnc_pairs
from imagekit.toolstacks.xlkeys import check_raw_key


@dataclass(frozen=True)
class Options:
    """``xen`` is the oldest Xen that the config is for. What only newer ones know is left out."""

    xen: Literal["4.17", "4.20"] = "4.17"

    @property
    def newer(self) -> bool:
        """Whether the keys of Xen 4.18 to 4.20 are known there."""
        return self.xen == "4.20"


def emit(domain: Domain, options: Options | None = None) -> str:
    """The config of ``domain``; raises SpecError for what xl.cfg cannot express."""
    return joined(config_lines(domain, options))


def config_lines(domain: Domain, options: Options | None = None) -> list[Line]:
    """The config line by line, each with the field it words."""
    options = options or Options()
    lines = [
        _setting("name", domain.name, "name"),
        _setting("uuid", domain.uuid, "uuid"),
        _setting("type", domain.mode, "mode"),
        _setting("memory", domain.memory_mib, "memory_mib"),
    ]
    if domain.maxmem_mib is not None:
        lines.append(_setting("maxmem", domain.maxmem_mib, "maxmem_mib"))
    lines.append(_setting("vcpus", domain.vcpus, "vcpus"))
    if domain.maxvcpus is not None:
        lines.append(_setting("maxvcpus", domain.maxvcpus, "maxvcpus"))
    lines += _boot_lines(domain, options)
    lines += _list("disk", [_disk(d, f"disks[{i}]") for i, d in enumerate(domain.disks)], "disks")
    lines += _list("vif", [_nic(n, f"nics[{i}]") for i, n in enumerate(domain.nics)], "nics")
    lines += _screen_lines(domain)
    if domain.cpu.weight is not None:
        lines.append(_setting("cpu_weight", domain.cpu.weight, "cpu.weight"))
    if domain.cpu.cap is not None:
        lines.append(_setting("cap", domain.cpu.cap, "cpu.cap"))
    if domain.cpu.pins:
        lines.append(_setting("cpus", model.pin_ranges(domain.cpu.pins), "cpu.pins"))
    lines.append(_setting("on_poweroff", domain.on_poweroff, "on_poweroff"))
    lines.append(_setting("on_reboot", domain.on_reboot, "on_reboot"))
    lines.append(_setting("on_crash", domain.on_crash, "on_crash"))
    for key, value in domain.raw:
        check_raw_key(key, newer=options.newer)
        lines.append(_setting(key, value, f"raw.{key}"))
    return lines


def _setting(key: str, value: model.RawValue, field: str) -> Line:
    return Line(f"{key} = {literal(value, field)}", field)


def _list(key: str, items: list[str], field: str) -> list[Line]:
    if not items:
        return []
    entries = [Line(f"  {string(e, field)},", f"{field}[{i}]") for i, e in enumerate(items)]
    return [Line(f"{key} = [", field), *entries, Line("]")]


def _boot_lines(domain: Domain, options: Options) -> list[Line]:
    boot = domain.boot
    if isinstance(boot, model.Firmware):
        return [
            _setting("firmware", boot.kind, "boot.kind"),
            _setting("boot", boot.boot_order, "boot.boot_order"),
        ]
    if isinstance(boot, model.Pvgrub):
        return [_setting("kernel", boot.image_path, "boot.image_path")]
    if isinstance(boot, model.DirectKernel):
        lines = [_setting("kernel", boot.kernel, "boot.kernel")]
        if boot.initrd is not None:
            lines.append(_setting("ramdisk", boot.initrd, "boot.initrd"))
        if boot.cmdline:
            lines.append(_setting("cmdline", boot.cmdline, "boot.cmdline"))
        return lines
    # A bare name is looked up in libxl's own directory; a path to /usr/bin/pygrub draws a warning.
    program = "pygrub" if isinstance(boot, model.Pygrub) else boot.program
    lines = [_setting("bootloader", program, "boot.program")]
    if boot.args:
        lines.append(_setting("bootloader_args", boot.args, "boot.args"))
    if options.newer:
        # It reads the guest's disk, which is hostile, as a user of this domain (XSA-443).
        lines.append(_setting("bootloader_restrict", 1, "boot.program"))
    return lines


def _disk(disk: Disk, where: str) -> str:
    if disk.target is None:
        return f"format=empty, vdev={disk.vdev}, access=ro, devtype=cdrom"
    if disk.target.endswith(","):
        refuse(
            f"{disk.target!r} ends in a comma, which xl drops: it would open another file",
            f"{where}.target",
            "rename the file, or name it by a link",
        )
    parts = [f"format={disk.format}", f"vdev={disk.vdev}"]
    parts.append("access=ro" if disk.readonly else "access=rw")
    if disk.backend is not None:
        parts.append(f"backendtype={disk.backend}")
    if disk.cdrom:
        parts.append("devtype=cdrom")
    return ", ".join([*parts, f"target={disk.target}"])


def _nic(nic: Nic, where: str) -> str:
    parts = [f"mac={nic.mac}"]
    for key, value in (
        ("bridge", nic.bridge),
        ("ip", " ".join(nic.ips) or None),
        ("script", nic.script),
        ("type", nic.type),
        ("model", nic.model),
        ("rate", str(nic.rate) if nic.rate else None),
        ("gatewaydev", nic.gatewaydev),
        ("vifname", nic.name),
    ):
        if value is not None:
            parts.append(f"{key}={spec_value(value, where)}")
    return ", ".join(parts)


def _screen_lines(domain: Domain) -> list[Line]:
    lines = []
    if domain.mode == "hvm":
        # Without this line xl gives every HVM guest a VNC server.
        settings = vnc_pairs(domain.graphics) if domain.graphics else [("vnc", 0)]
        lines += [_setting(key, value, "graphics") for key, value in settings]
        if domain.serial is not None:
            lines.append(_setting("serial", domain.serial, "serial"))
    elif domain.graphics is not None:
        items = [f"{k}={spec_value(str(v), 'graphics')}" for k, v in vnc_pairs(domain.graphics)]
        lines += [Line(f"vfb = [ {string(', '.join(items), 'graphics')} ]", "graphics")]
    return lines


class XlEmitter:
    """The ``xl`` toolstack."""

    name = "xl"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return config_lines(domain, self.options)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return emit(domain, self.options)

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """One file, ``NAME.MODE.xl.cfg``."""
        content = OutputFile(emit(domain, self.options), permissions(domain))
        return {f"{domain.name}.{domain.mode}.xl.cfg": content}


EMITTER = XlEmitter()
