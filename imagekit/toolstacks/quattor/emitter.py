"""Quattor with the component ncm-xen: Pan templates, and the file ncm-xen makes of them.

``hardware/machine/xen/NAME`` describes the guest's hardware, as Quattor's installer wants it for
every machine; ``xen/guests/NAME`` goes into the host's profile. Sources: configuration-modules-core
14.4, ``ncm-xen``; template-library-standard, ``xen``.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain
from imagekit.domain.text import one_line
from imagekit.toolstacks.output import Line, OutputFile, joined, permissions
from imagekit.toolstacks.quattor import pan
from imagekit.toolstacks.quattor.ncm_xen import Option, config_file, options

MIB = 1024 * 1024
COMPONENT = "/software/components/xen/domains"

_ORDER = (
    "Include this after xen/host/config or xen/configure_guests of QWG. They assign all domains at",
    "once, if there are none yet: included later, they drop the guests of XEN_DB without a word.",
)
"""``"/software/components/xen/domains" ?= ...`` in xen/configure_guests."""


@dataclass(frozen=True)
class Options:
    """``host`` is the machine the guest lives on (``location``); ``auto`` starts it with it.

    ``cpu``, ``ram`` and ``disk`` name the site's hardware templates; the defaults are those of
    template-library-standard.
    """

    host: str | None = None
    auto: bool = True
    cpu: str = "hardware/cpu/xen_vcpu"
    ram: str = "hardware/ram/generic"
    disk: str = "hardware/harddisk/generic/scsi"


def guest_lines(domain: Domain, facts: BuildFacts, choices: Options) -> list[Line]:
    """The template for the host's profile: the domain for ncm-xen; raises SpecError."""
    name = pan.key(domain.name, "name")
    lines = [
        Line(f"template xen/guests/{name};"),
        *(Line(f"# {text}") for text in _ORDER),
        *_content(domain),
        Line("include { 'components/xen/config' };"),
    ]
    for item in options(domain, sizes(domain, facts)):
        path = f"{COMPONENT}/{name}/options/{item.key}"
        lines.append(Line(pan.assign(path, item.value, item.field), item.field))
    lines.append(Line(pan.assign(f"{COMPONENT}/{name}/auto", choices.auto, "name"), "name"))
    return lines


def _content(domain: Domain) -> list[Line]:
    """Where the image has to be first: ncm-xen makes what is missing, empty."""
    lines = []
    for index, disk in enumerate(domain.disks):
        if disk.target is not None:
            made = "a logical volume" if disk.target.startswith("/dev/") else "a file of zeros"
            text = f"# Put the image at {disk.target} before ncm-xen runs, which makes {made} there"
            lines.append(Line(f"{text} if there is none.", f"disks[{index}].target"))
    return lines


def hardware_lines(domain: Domain, facts: BuildFacts, choices: Options) -> list[Line]:
    """The hardware template; memory and disks in MB, as Pan's ``MB`` is 1. Raises SpecError."""
    name = pan.key(domain.name, "name")
    lines = [Line(f"structure template hardware/machine/xen/{name};")]
    if choices.host is not None:
        one_line(choices.host, "host")
        lines.append(Line(pan.assign("location", choices.host, "host"), "host"))
    cpus = [pan.Create(choices.cpu, {})] * domain.vcpus
    ram = [pan.Create(choices.ram, {"size": domain.memory_mib})]
    disks: dict[str, pan.Value] = {}
    for disk, size in zip(domain.disks, sizes(domain, facts), strict=True):
        disks[disk.vdev] = pan.Create(choices.disk, {} if size is None else {"capacity": size})
    lines += [
        Line(pan.assign("serialnumber", domain.uuid, "uuid"), "uuid"),
        Line(pan.assign("cpu", cpus, "vcpus"), "vcpus"),
        Line(pan.assign("ram", ram, "memory_mib"), "memory_mib"),
    ]
    if disks:
        lines.append(Line(pan.assign("harddisks", disks, "disks"), "disks"))
    if domain.nics:
        cards: dict[str, pan.Value] = {
            f"eth{i}": {"hwaddr": nic.mac, "boot": i == 0} for i, nic in enumerate(domain.nics)
        }
        lines.append(Line(pan.assign("cards/nic", cards, "nics"), "nics"))
    return lines


def sizes(domain: Domain, facts: BuildFacts) -> list[int | None]:
    """The size of each disk in MiB, rounded up; None where the facts do not know the disk."""
    return [_size(disk, facts) for disk in domain.disks]


def _size(disk: Disk, facts: BuildFacts) -> int | None:
    for known in facts.disks:
        if disk.target is not None and known.paths.get(disk.format) == disk.target:
            return -(-known.virtual_size // MIB)
    return None


class QuattorEmitter:
    """The ``quattor`` toolstack."""

    name = "quattor"

    def __init__(self, choices: Options | None = None) -> None:
        self.options = choices or Options()

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`; the template for the host's profile."""
        return guest_lines(domain, facts, self.options)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return joined(self.lines(domain, facts))

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """Both templates under the paths Pan wants, and ``etc/xen/NAME`` as ncm-xen writes it."""
        mode = permissions(domain)
        found: list[Option] = options(domain, sizes(domain, facts))
        hardware = joined(hardware_lines(domain, facts, self.options))
        return {
            f"xen/guests/{domain.name}.pan": OutputFile(self.text(domain, facts), mode),
            f"hardware/machine/xen/{domain.name}.pan": OutputFile(hardware),
            f"etc/xen/{domain.name}": OutputFile(config_file(found), mode),
        }


EMITTER = QuattorEmitter()
