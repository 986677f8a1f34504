"""Why each line of a config is there: the fact of the image, or the part of the spec, behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagekit.domain import model
from imagekit.domain.bootpath import CONSOLES, boot_paths
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Boot, Domain
from imagekit.toolstacks.output import Line

SPEC_FIELDS = {
    "name": "spec: name",
    "uuid": "spec: uuid, or made from the name, so that it stays the same",
    "memory_mib": "spec: memory",
    "maxmem_mib": "spec: maxmem",
    "vcpus": "spec: vcpus",
    "maxvcpus": "spec: maxvcpus",
    "cpu.weight": "spec: cpu weight",
    "cpu.cap": "spec: cpu cap",
    "cpu.pins": "spec: cpu pins",
}
DEFAULTS = {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}

_ITEM = re.compile(r"(disks|nics)\[([0-9]+)\]")


@dataclass(frozen=True)
class Row:
    """One line of the config, the domain's field it words, and why it reads so."""

    line: str
    field: str
    why: str


def rows(lines: list[Line], domain: Domain, facts: BuildFacts) -> list[Row]:
    """A row per line of a config; lines of pure syntax have an empty field and reason.

    A VNC password is never shown.
    """
    return [
        Row(_masked(line.text, domain), line.field, _why(line.field, domain, facts))
        for line in lines
    ]


def table(explained: list[Row]) -> str:
    """The rows as text in two columns."""
    width = min(64, max((len(row.line) for row in explained), default=0))
    out = []
    for row in explained:
        if not row.why:
            out.append(row.line)
        elif len(row.line) > width:
            out += [row.line, f"{'':{width}}  # {row.why}"]
        else:
            out.append(f"{row.line:{width}}  # {row.why}")
    return "".join(f"{line}\n" for line in out)


def _masked(text: str, domain: Domain) -> str:
    if domain.graphics is None or domain.graphics.password is None:
        return text
    if "passw" not in text:
        return text
    return re.sub(r"(passwd?\W+).*", r"\1********", text)


def _why(field: str, domain: Domain, facts: BuildFacts) -> str:
    if not field:
        return ""
    for key in (field, field.split(".")[0], field.split("[")[0]):
        if key in facts.origins:
            return facts.origins[key]
    if field in SPEC_FIELDS:
        return SPEC_FIELDS[field]
    if field in DEFAULTS:
        value = getattr(domain, field)
        return "the default" if value == DEFAULTS[field] else f"spec: {field}"
    if field == "mode":
        evidence = "; ".join(facts.verdict(domain.mode).evidence)
        return f"asked for, and the image can: {evidence}" if evidence else "asked for"
    if field.startswith("boot"):
        return _boot(field, domain, facts)
    match = _ITEM.match(field)
    if match is not None:
        index = int(match[2])
        return _disk(domain, index) if match[1] == "disks" else _nic(domain, facts, index)
    return _other(field, domain)


def _boot(field: str, domain: Domain, facts: BuildFacts) -> str:
    name = _path_name(domain.boot)
    reasons: dict[str, str] = {path: why for path, _, why in boot_paths(facts, domain.mode)}
    if field == "boot.kernel":
        return f"boot path {name}: {reasons.get(name, 'copied out of the image')}"
    if field == "boot.initrd":
        return "the initrd that belongs to that kernel, copied out of the image"
    if field == "boot.cmdline":
        return f"the image's root, and the consoles of {domain.mode}: {CONSOLES[domain.mode]}"
    if field == "boot.boot_order":
        return "the built disk holds the system"
    return f"boot path {name}: {reasons.get(name, 'asked for')}"


def _path_name(boot: Boot) -> str:
    names: dict[type, str] = {
        model.Pygrub: "pygrub",
        model.Pvgrub: "pvgrub",
        model.DirectKernel: "direct",
        model.Firmware: "firmware",
        model.Netboot: "netboot",
    }
    return names[type(boot)]


def _disk(domain: Domain, index: int) -> str:
    disk = domain.disks[index]
    if disk.target is None:
        return "an empty CD-ROM drive"
    parts = [f"disk {index} of the build, in the format {disk.format}"]
    if disk.format != "raw":
        parts.append("served by QEMU")
    elif disk.block:
        parts.append("a block device")
    if disk.readonly:
        parts.append("read-only")
    return ", ".join(parts)


def _nic(domain: Domain, facts: BuildFacts, index: int) -> str:
    wanted = facts.nics[index] if index < len(facts.nics) else None
    nic = domain.nics[index]
    if wanted is not None and wanted.bridge is None and nic.bridge is not None:
        return f"spec: nics[{index}]; the bridge is the default"
    if wanted is not None and wanted.model is not None and nic.model is None:
        return f"spec: nics[{index}]; {domain.mode} has no emulated card, so no model"
    return f"spec: nics[{index}]"


def _other(field: str, domain: Domain) -> str:
    if field.startswith("raw."):
        return f"spec: {field}"
    if field == "graphics":
        return "spec: graphics" if domain.graphics else "no screen asked for; xl would open one"
    if field == "serial":
        return "the console of HVM (console=ttyS0)"
    return {"disks": "the build's disks", "nics": "spec: nics"}.get(field, f"spec: {field}")
