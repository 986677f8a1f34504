"""OpenStack Glance: images with the properties nova's Xen drivers read, up to Train (20).

An image carries the disk, how it boots and what it needs at least; NICs, processors, screens and
the rest come from the flavor, the network and nova. Source: openstack/nova 20.0.0,
``nova/objects/image_meta.py``, ``nova/virt/libvirt``, ``nova/virt/xenapi/vm_utils.py``.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain
from imagekit.domain.text import refuse
from imagekit.errors import CapabilityError
from imagekit.toolstacks.glance.boot import boot_files, check_mode
from imagekit.toolstacks.glance.properties import Property, disk_properties
from imagekit.toolstacks.output import Line, OutputFile, joined
from imagekit.toolstacks.tarball import FORMATS, Handler, tarball_file

GIB = 1 << 30


@dataclass(frozen=True)
class Options:
    """Where the image will run and how it is described.

    ``target`` is nova's driver, ``handler`` its image handler for XenServer. ``names`` says whether
    the properties get their old names (up to Liberty), their canonical ones, or both. ``ami`` makes
    kernel, initrd and a bare file system of it. ``auto_disk_config`` lets XenServer grow the only
    partition.
    """

    target: Literal["nova-libvirt", "nova-xenapi"] = "nova-libvirt"
    handler: Handler = "direct_vhd"
    names: Literal["both", "legacy", "canonical"] = "both"
    ami: bool = False
    auto_disk_config: bool = False


@dataclass(frozen=True)
class Image:
    """One image to create. ``links`` are properties that hold the id of another, by its role.

    ``file`` is absolute, or the name of a tarball to be made for ``handler`` of the disk
    ``position``; ``origin`` is the domain's field. ``min_disk_gib`` and ``min_ram_mib`` are 0 for
    no limit.
    """

    role: str
    name: str
    file: str
    disk_format: str
    container_format: str
    origin: str
    properties: tuple[Property, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    min_disk_gib: int = 0
    min_ram_mib: int = 0
    handler: Handler | None = None
    position: int = 0


def images(domain: Domain, facts: BuildFacts, options: Options) -> list[Image]:
    """The images to create, in order: kernel, initrd, the disks.

    Raises CapabilityError for what nova's drivers cannot boot or read, SpecError for text that
    Glance does not store.
    """
    check_mode(domain, facts, xenapi=options.target == "nova-xenapi", ami=options.ami)
    if not domain.disks:
        refuse("an image is a disk, and the domain has none", "disks", "give it one")
    found = [
        Image(role, f"{domain.name}-{role}", path, kind, kind, where)
        for role, kind, path, where in boot_files(domain)
    ]
    links = tuple(
        ({"kernel": "kernel_id", "initrd": "ramdisk_id"}[image.role], image.role) for image in found
    )
    for position, disk in enumerate(domain.disks):
        found.append(_disk_image(domain, facts, options, position, disk, links))
    return found


def _disk_image(
    domain: Domain,
    facts: BuildFacts,
    options: Options,
    position: int,
    disk: Disk,
    links: tuple[tuple[str, str], ...],
) -> Image:
    where = f"disks[{position}]"
    if disk.target is None:
        refuse("an empty CD-ROM drive is no image", f"{where}.target", "leave it out")
    path, disk_format, container, handler = _form(domain, facts, options, position, disk)
    size = next((d.virtual_size for d in facts.disks if d.paths.get(disk.format) == disk.target), 0)
    first = position == 0
    return Image(
        role=f"disk{position}",
        name=domain.name if first else f"{domain.name}-{disk.vdev}",
        file=path,
        disk_format=disk_format,
        container_format=container,
        origin=f"{where}.target",
        properties=disk_properties(
            domain,
            facts,
            xenapi=options.target == "nova-xenapi",
            names=options.names,
            auto_disk_config=options.auto_disk_config,
        )
        if first
        else (),
        links=links if first else (),
        min_disk_gib=-(-size // GIB),
        min_ram_mib=domain.memory_mib if first else 0,
        handler=handler,
        position=position,
    )


def _form(
    domain: Domain, facts: BuildFacts, options: Options, position: int, disk: Disk
) -> tuple[str, str, str, Handler | None]:
    """File, disk format, container format and the handler whose tarball it is."""
    paths = {disk.format: disk.target or ""}
    for known in facts.disks:
        if known.paths.get(disk.format) == disk.target:
            paths |= known.paths
    if disk.cdrom:
        return paths["raw"], "iso", "bare", None
    if options.ami and position == 0:
        if "raw" not in paths:
            raise CapabilityError(
                f"an AMI is a raw file system, and disk {position} is {disk.format}",
                where="format",
                hint="imagekit convert --to raw makes one",
            )
        return paths["raw"], "ami", "ami", None
    if options.target == "nova-libvirt":
        return paths[disk.format], disk.format, "bare", None
    wanted = FORMATS[options.handler]
    if wanted in paths:
        container = "ovf" if wanted == "vhd" else "tgz"
        name = next(iter(tarball_file(domain, facts, options.handler, position)))
        return name, wanted, container, options.handler
    if "raw" in paths:
        return paths["raw"], "raw", "bare", None
    raise CapabilityError(
        f"disk {position} exists as {disk.format} only, and nova refuses that for XenServer",
        where="format",
        hint="imagekit convert --to vhd makes what direct_vhd and vdi_remote_stream take",
    )


def command(image: Image, ids: dict[str, str]) -> str:
    """``openstack image create`` for an image, quoted for sh, with the id in ``$id``.

    ``ids`` are shell words by role.
    """
    words = ["openstack", "image", "create", "--id", '"$id"']
    words += ["--disk-format", image.disk_format, "--container-format", image.container_format]
    if image.min_disk_gib:
        words += ["--min-disk", str(image.min_disk_gib)]
    if image.min_ram_mib:
        words += ["--min-ram", str(image.min_ram_mib)]
    for item in image.properties:
        words += ["--property", shlex.quote(f"{item.key}={item.value}")]
    for key, role in image.links:
        words += ["--property", f"{key}={ids[role]}"]
    words += ["--file", shlex.quote(image.file), "-f", "value", "-c", "id"]
    return " ".join([*words, shlex.quote(image.name)])


_HEAD = """\
#!/bin/sh
# Run this beside the image files, with OpenStack's variables or OS_CLOUD set.
set -eu
refuse() {
    found=$(openstack image list --name "$1" -f value -c ID)
    [ -z "$found" ] || { echo "there is $1 already: openstack image delete" $found >&2; exit 1; }
}
# The ids are ours, so that they are known even if openstack is ended before it prints them.
new() {
    read -r id </proc/sys/kernel/random/uuid
    made="$id $made"
}
made=
undo() {
    for id in $made; do
        openstack image delete "$id" || echo "if it is left: openstack image delete $id" >&2
    done
}
trap '[ $? -eq 0 ] || undo' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM"""

_TGZ = "# Glance takes no tgz unless glance-api.conf has it in [image_format] container_formats."


def script_lines(domain: Domain, facts: BuildFacts, options: Options) -> list[Line]:
    """A shell script that creates the images; it prints the id of each disk's.

    It refuses names that are taken, and takes away what it made when it fails.
    """
    planned = images(domain, facts, options)
    lines = [Line(text) for text in _HEAD.splitlines()]
    if any(image.container_format == "tgz" for image in planned):
        lines.append(Line(_TGZ))
    lines += [Line(f"refuse {shlex.quote(image.name)}", image.origin) for image in planned]
    ids: dict[str, str] = {}
    for image in planned:
        lines.append(Line("new"))
        text = command(image, ids)
        if image.role in ("kernel", "initrd"):
            ids[image.role] = f'"${image.role}"'
            lines += [Line(f"{text} >/dev/null", image.origin), Line(f"{image.role}=$id")]
        else:
            lines.append(Line(text, image.origin))
    return lines


class GlanceEmitter:
    """The ``glance`` toolstack."""

    name = "glance"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lines(self, domain: Domain, facts: BuildFacts) -> list[Line]:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return script_lines(domain, facts, self.options)

    def text(self, domain: Domain, facts: BuildFacts) -> str:
        """See :class:`imagekit.toolstacks.output.Emitter`."""
        return joined(self.lines(domain, facts))

    def files(self, domain: Domain, facts: BuildFacts) -> dict[str, OutputFile]:
        """``NAME.MODE.glance.sh``, and the tarball it uploads where there is one."""
        name = f"{domain.name}.{domain.mode}.glance.sh"
        found = {name: OutputFile(self.text(domain, facts), 0o755)}
        for image in images(domain, facts, self.options):
            if image.handler is not None:
                found |= tarball_file(domain, facts, image.handler, image.position)
        return found


EMITTER = GlanceEmitter()
