"""XenServer and XCP-ng: a shell script of ``xe`` commands that makes the VM in dom0.

The script asks the pool for its default SR and for the network of each bridge; ``SR=UUID`` in its
environment names another one. Source: xapi-project/xen-api, ``ocaml/xapi-cli-server``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from imagekit.disk.vhd import virtual_size_of
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError
from imagekit.toolstacks.output import Line, OutputFile, joined
from imagekit.toolstacks.tarball import Handler, tarball_file
from imagekit.toolstacks.xapi.records import Machine, Member, Value, Vbd, Vif, machine

_LIMITS = ("static_min", "dynamic_min", "dynamic_max", "static_max")
_SIZES = (*(f"memory_{limit}" for limit in _LIMITS), "VCPUs_max", "VCPUs_at_startup")
"""What a new VM has wrong: ``xe vm-create`` makes every VM with 256 MiB and one VCPU, ignores what
else it is given, and the limits have an order (``cli_operations.ml``, ``xapi_vm.ml``). VCPUs_max
goes first, since it must never be below VCPUs_at_startup, which is 1.
"""

_SIGNALS = ((1, "HUP"), (2, "INT"), (15, "TERM"))

_CHECK = (
    "check() {",
    '    found=$(xe vm-param-get uuid="$vm" param-name="$1")',
    '    [ "$found" = "$2" ] || { echo "the VM\'s $1 is $found, not $2" >&2; exit 1; }',
    "}",
)
"""Reads back what was set: another XAPI may ignore more than the one this was written for."""


@dataclass(frozen=True)
class Source:
    """The file a disk's content comes from, its format, and the disk's size in bytes."""

    path: str
    format: str
    virtual_size: int


def disk_source(facts: BuildFacts, disk: Disk, position: int) -> Source:
    """What to upload for a disk: its VHD if one was made, else its raw image.

    Raises CapabilityError for a disk that exists as qcow2 only, SpecError for one that ``facts`` do
    not know.
    """
    for known in facts.disks:
        if known.paths.get(disk.format) == disk.target:
            for kind in ("vhd", "raw"):
                path = known.paths.get(kind)
                if path is not None:
                    # A VHD is a whole number of 2 MiB, and so is every VDI.
                    return Source(path, kind, virtual_size_of(known.virtual_size))
            raise CapabilityError(
                f"disk {position} exists as {disk.format} only, and XAPI imports VHD and raw",
                where="format",
                hint="imagekit convert makes a VHD",
            )
    refuse(
        f"{disk.target} is not a disk of the build",
        f"disks[{position}].target",
        "XAPI takes a copy of the image, so that it has to be one",
    )


def script_lines(domain: Domain, facts: BuildFacts) -> list[Line]:
    """The script, line by line; raises SpecError or CapabilityError where XAPI cannot follow."""
    parts = machine(domain, kernels="made")
    lines = [
        Line("#!/bin/sh"),
        Line("# Run this in dom0, where the image is reachable. SR=UUID names another repository."),
        Line("set -eu"),
        Line("SR=${SR:-$(xe pool-list params=default-SR --minimal)}"),
    ]
    for copy in parts.copies:
        words = shlex.join(["install", "-D", "-m", "0644", "--", copy.source, copy.target])
        lines.append(Line(words, copy.field))
    for bridge in dict.fromkeys(vif.bridge for vif in parts.vifs):
        number = [vif.bridge for vif in parts.vifs].index(bridge)
        lookup = f"xe network-list {_pair('bridge', bridge)} params=uuid --minimal"
        missing = shlex.quote(f"no network has the bridge {bridge}")
        lines.append(Line(f"net{number}=$({lookup})", f"nics[{number}].bridge"))
        lines.append(Line(f'[ -n "$net{number}" ] || {{ echo {missing} >&2; exit 1; }}'))
    lines += _vm_lines(parts)
    for vbd in parts.vbds:
        lines += _disk_lines(domain, facts, vbd)
    for position, vif in enumerate(parts.vifs):
        lines += _vif_lines(parts, position, vif)
    return [*lines, Line('echo "$vm"')]


def _pair(key: str, value: str) -> str:
    return f"{key}={shlex.quote(value)}"


def _words(member: Member) -> list[str]:
    """A member in xe's notation: dashes, and a colon before the key of a map."""
    key = member.key.replace("_", "-")
    if isinstance(member.value, Mapping):
        return [_pair(f"{key}:{inner}", text) for inner, text in member.value.items()]
    return [_pair(key, _text(member.value))]


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _vm_lines(parts: Machine) -> list[Line]:
    members = {m.key: m for m in parts.vm}
    name = members.pop("name_label")
    lines = [Line(f"vm=$(xe vm-create {_words(name)[0]})", name.field)]
    # Remove everything when a later step fails.
    lines.append(
        Line(
            'vdis=; trap \'[ $? -eq 0 ] || { xe vm-destroy uuid="$vm"; '
            'for v in $vdis; do xe vdi-destroy uuid="$v"; done; }\' EXIT'
        )
    )
    # sh leaves without its EXIT trap when a signal ends it.
    lines += [Line(f"trap 'exit {128 + n}' {word}") for n, word in _SIGNALS]
    lines += _size_lines([members.pop(key) for key in _SIZES])
    for m in members.values():
        if m.value == {}:
            continue
        for word in _words(m):
            lines.append(Line(f'xe vm-param-set uuid="$vm" {word}', m.field))
    return lines


def _size_lines(sizes: list[Member]) -> list[Line]:
    """Memory and VCPUs set, and read back."""
    limits = zip(_LIMITS, sizes, strict=False)
    words = " ".join(f"{limit.replace('_', '-')}={m.value}" for limit, m in limits)
    lines = [Line(f'xe vm-memory-limits-set uuid="$vm" {words}', "memory_mib")]
    for m in sizes[len(_LIMITS) :]:
        lines.append(Line(f'xe vm-param-set uuid="$vm" {_words(m)[0]}', m.field))
    lines += [Line(text) for text in _CHECK]
    for m in sizes:
        lines.append(Line(f"check {m.key.replace('_', '-')} {m.value}", m.field))
    return lines


def _disk_lines(domain: Domain, facts: BuildFacts, vbd: Vbd) -> list[Line]:
    field = f"disks[{vbd.position}]"
    disk = domain.disks[vbd.position]
    common = f"device={vbd.userdevice} bootable={_text(vbd.bootable)}"
    mode = "RO" if vbd.readonly else "RW"
    if vbd.empty:
        return [Line(f'xe vbd-create vm-uuid="$vm" {common} mode={mode} type=CD', field)]
    source = disk_source(facts, disk, vbd.position)
    name = shlex.quote(f"{domain.name}-{disk.vdev}")
    return [
        Line(
            f'vdi=$(xe vdi-create sr-uuid="$SR" name-label={name} type=user '
            f"virtual-size={source.virtual_size})",
            f"{field}.vdev",
        ),
        Line('vdis="$vdis $vdi"'),
        Line(
            f'xe vdi-import uuid="$vdi" {_pair("filename", source.path)} format={source.format}',
            f"{field}.target",
        ),
        Line(
            f'xe vbd-create vm-uuid="$vm" vdi-uuid="$vdi" {common} mode={mode} type=Disk',
            f"{field}.readonly",
        ),
    ]


def _vif_lines(parts: Machine, position: int, vif: Vif) -> list[Line]:
    field = f"nics[{position}]"
    number = [v.bridge for v in parts.vifs].index(vif.bridge)
    lines = [
        Line(
            f'vif=$(xe vif-create vm-uuid="$vm" network-uuid="$net{number}" '
            f"device={vif.device} mac={vif.mac})",
            f"{field}.mac",
        )
    ]
    settings = []
    if vif.qos:
        settings.append((Member("qos_algorithm_type", "ratelimit"), "rate"))
        settings.append((Member("qos_algorithm_params", vif.qos), "rate"))
    for key, addresses in (("ipv4_allowed", vif.ipv4), ("ipv6_allowed", vif.ipv6)):
        if addresses:
            settings.append((Member(key, ",".join(addresses)), "ips"))
    for member, name in settings:
        # Only the algorithm's fields keep their underscores in xe.
        words = _words(member)
        if name == "rate":
            words = [word.replace("qos-algorithm-", "qos_algorithm_") for word in words]
        lines += [Line(f'xe vif-param-set uuid="$vif" {w}', f"{field}.{name}") for w in words]
    return lines


class XapiEmitter:
    """The ``xapi`` toolstack.

    ``handlers`` are nova's image handlers to make a tarball for, each once per content.
    """

    name = "xapi"

    def __init__(self, handlers: tuple[Handler, ...] = ()) -> None:
        self.handlers = handlers

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return script_lines(domain, facts)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return joined(self.lines(domain, facts))

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """``NAME.MODE.xe.sh``, and a tarball of the first disk: ``NAME.vhd.tgz``, ``NAME.raw.tgz``.

        Without ``handlers`` the VHD's is made if there is a VHD.
        """
        found = {f"{domain.name}.{domain.mode}.xe.sh": OutputFile(self.text(domain, facts), 0o755)}
        has_vhd = bool(facts.disks) and "vhd" in facts.disks[0].paths
        default: tuple[Handler, ...] = ("direct_vhd",) if has_vhd else ()
        for handler in self.handlers or default:
            found |= tarball_file(domain, facts, handler)
        return found


EMITTER = XapiEmitter()
