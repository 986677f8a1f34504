"""Facts of the built image, and the domain configs that follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk.bootloader import grub_prefix
from imagekit.disk.layout import Ids, Layout, Part, plan_layout
from imagekit.domain.bootpath import domain_for, raw_settings
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Cpu, Mode, Nic, Rate, Vnc, parse_pins
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.installs.context import BuildContext
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.spec.derived import effective_disk, mac_of, uuid_of
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec, StaticNetwork
from imagekit.toolstacks.registry import emitter_for

NAMES = {
    "xl": "xl.cfg",
    "xm": "xm.cfg",
    "libvirt": "xml",
    "opennebula": "one.vm",
    "glance": "glance.sh",
    "xapi": "xe.sh",
    "quattor": "pan",
}
"""How a toolstack's main config is called after NAME.MODE; ``imagekit config`` makes XVAs."""


def disk_path(spec: Spec, image_format: str) -> str:
    """Name of the disk in the build directory."""
    return f"{spec.name}.{image_format}"


def config_path(spec: Spec, toolstack: str, mode: str) -> str:
    """Name of a domain config in the build directory."""
    return f"{spec.name}.{mode}.{NAMES[toolstack]}"


def checked_directory(out: Path) -> Path:
    """The build directory as an absolute path that configs can name; SpecError if they cannot."""
    path = out.absolute()
    bad = [c for c in str(path) if c in ",\"'\\" or not c.isprintable()]
    if bad:
        raise SpecError(
            f"the build directory's path has {bad[0]!r}, which domain configs cannot name",
            where=str(path),
            hint="choose another directory with -o",
        )
    return path


class Configs(Stage):
    """Domain configs for every mode and toolstack of the spec, with the final absolute paths."""

    name: ClassVar[str] = "configs"
    title: ClassVar[str] = "writing domain configs"
    needs: Sequence[str] = ("kernel.json", "layout.json", "kernel", "initrd")

    def __init__(self, context: BuildContext) -> None:
        self._file = context.file
        self._spec = context.spec
        self._out = checked_directory(context.out)
        self._wording = self._find_wording()
        self.makes = ("facts.json", *(name for name, _t, _m in self._texts()))

    def _texts(self) -> list[tuple[str, str, Mode]]:
        return [
            (config_path(self._spec, toolstack, mode), toolstack, mode)
            for toolstack, modes in self._wording.items()
            for mode in modes
        ]

    def _find_wording(self) -> dict[str, list[Mode]]:
        """The modes each toolstack has words for, tried before anything is built.

        xend knows no PVH, for example. Raises what a toolstack says that can word none of them.
        """
        screen = self._spec.machine.graphics
        if screen is not None and screen.password:
            return {}  # the password is given to "imagekit config", which writes them then
        facts = facts_for(self._spec, _ABLE, _trial_image(self._spec)).located(str(self._out))
        wording: dict[str, list[Mode]] = {}
        for toolstack in self._spec.toolstacks:
            if toolstack not in NAMES:
                continue
            refusals: list[ImagekitError] = []
            for mode in self._spec.boot.modes:
                try:
                    _word(facts, toolstack, mode)
                    wording.setdefault(toolstack, []).append(mode)
                except (SpecError, CapabilityError) as error:
                    refusals.append(error)
            if toolstack not in wording:
                refusals[0].where = f"{self._file.path}: {toolstack}, {refusals[0].where}"
                raise refusals[0]
        return wording

    def targets(self) -> list[Target]:
        """The configs, as they are delivered."""
        return [
            Target(name, name, "domain-config", 0o600, {"toolstack": toolstack, "mode": mode})
            for name, toolstack, mode in self._texts()
        ]

    def key(self) -> Mapping[str, Any]:
        spec = self._spec
        return {
            "origins": origins(self._file),
            "directory": str(self._out),
            "spec": spec.model_dump(
                mode="json",
                include={
                    "name",
                    "memory",
                    "maxmem",
                    "vcpus",
                    "nics",
                    "machine",
                    "toolstacks",
                    "boot",
                    "os",
                },
                exclude={"os": {"proxy"}},
            ),
            "uuid": uuid_of(spec),
            "disk": spec.disk.model_dump(mode="json"),
        }

    def run(self, run: StageRun) -> None:
        facts = replace(
            self._facts(run),
            kernel_bytes=run.inputs["kernel"].stat().st_size,
            initrd_bytes=run.inputs["initrd"].stat().st_size,
            origins=origins(self._file),
        )
        (run.output / "facts.json").write_text(json.dumps(facts.to_json(), indent=1))
        located = facts.located(str(self._out))
        for name, toolstack, mode in self._texts():
            (run.output / name).write_text(_word(located, toolstack, mode))

    def _facts(self, run: StageRun) -> BuildFacts:
        """The facts, as far as kernel, initrd and the spec's places do not tell them."""
        kernel = json.loads(run.inputs["kernel.json"].read_text())
        image = json.loads(run.inputs["layout.json"].read_text())
        return facts_for(self._spec, kernel, image)


def origins(file: SpecFile) -> dict[str, str]:
    """Where the spec says what: a field of the facts to "web01.yaml:3 memory"; no defaults."""
    fields: dict[str, tuple[str | int, ...]] = {
        "name": ("name",),
        "uuid": ("uuid",),
        "memory_mib": ("memory",),
        "maxmem_mib": ("maxmem",),
        "vcpus": ("vcpus",),
        "modes": ("boot", "modes"),
        "cmdline": ("boot", "cmdline"),
        "nics": ("nics",),
        "disks": ("disk",),
    }
    found = {}
    for name, loc in fields.items():
        node: Any = file.tree
        for part in loc:
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            place, _, field = file.where(*loc).partition(" ")
            line = place.rsplit(":", 2)[-2]
            found[name] = f"{file.path.name}:{line} {field}"
    return found


_ABLE: dict[str, Any] = {
    **{mode: {"capable": True, "evidence": []} for mode in ("pv", "pvh", "hvm")},
    "release": "0",
}
"""A kernel that can do everything, for trying the words before there is a kernel."""


def _trial_image(spec: Spec) -> dict[str, Any]:
    layout = plan_layout(effective_disk(spec.disk), Ids("trial"))
    cmdline = f"root=UUID={layout.parts[-1].fs_uuid} ro {spec.boot.cmdline}"
    return {"layout": json.loads(json.dumps(layout.to_json())), "cmdline": cmdline.strip()}


def _word(facts: BuildFacts, toolstack: str, mode: Mode) -> str:
    return emitter_for(toolstack).text(domain_for(facts, mode=mode, toolstack=toolstack), facts)


def facts_for(spec: Spec, kernel: Mapping[str, Any], image: Mapping[str, Any]) -> BuildFacts:
    """The facts of a build: what the spec wants, what the kernel can, how the disk is laid out."""
    raw_layout = image["layout"]
    layout = Layout(
        raw_layout["table"],
        raw_layout["size"],
        raw_layout["disk_id"],
        tuple(Part(**p) for p in raw_layout["partitions"]),
    )
    grub = f"{grub_prefix(layout)}/grub.cfg"
    table = layout.table
    return BuildFacts(
        name=spec.name,
        uuid=uuid_of(spec),
        memory_mib=spec.memory,
        maxmem_mib=spec.maxmem,
        vcpus=spec.vcpus,
        disks=(
            DiskFacts(
                {f: disk_path(spec, f) for f in spec.disk.formats},
                effective_disk(spec.disk).size,
            ),
        ),
        pv=_verdict(kernel["pv"]),
        pvh=_verdict(kernel["pvh"]),
        hvm=_verdict(kernel["hvm"]),
        # /boot is an ext4 of ours without the features that pygrub's reader lacks, and grub.cfg
        # has the one form it understands.
        pygrub=PygrubView(True, f"pygrub reads {grub} on ext4"),
        arch="x86_64" if spec.os.arch == "amd64" else "i386",
        modes=tuple(spec.boot.modes),
        nics=tuple(_nic(spec, index) for index in range(len(spec.nics))),
        kernel=f"{spec.name}-vmlinuz",
        initrd=f"{spec.name}-initrd.img",
        kernel_release=kernel["release"],
        cmdline=image["cmdline"],
        partition_table=table,
        boot_filesystem=layout.boot_part.filesystem,
        grub_config=grub,
        bootloader_bios=table != "none",
        bootloader_uefi=layout.find("esp") is not None,
        graphics=_screen(spec),
        graphics_password=spec.machine.graphics is not None and spec.machine.graphics.password,
        cpu=_cpu(spec),
        maxvcpus=spec.machine.maxvcpus,
        on_poweroff=spec.machine.on_poweroff,
        on_reboot=spec.machine.on_reboot,
        on_crash=spec.machine.on_crash,
        raw={
            toolstack: dict(raw_settings(settings))
            for toolstack, settings in spec.machine.raw.items()
        },
        os_distribution=spec.os.distribution,
        os_version=spec.os.suite,
    )


def _cpu(spec: Spec) -> Cpu:
    wanted = spec.machine.cpu
    # To Xen a cap of 0 is none, which a domain says by having none.
    return Cpu(wanted.weight, wanted.cap or None, parse_pins(wanted.pins))


def _verdict(value: Mapping[str, Any]) -> Verdict:
    return Verdict(value["capable"], tuple(value["evidence"]))


def _screen(spec: Spec) -> Vnc | None:
    wanted = spec.machine.graphics
    if wanted is None:
        return None
    return Vnc(wanted.listen, wanted.display, None, wanted.keymap)


def _nic(spec: Spec, index: int) -> Nic:
    nic = spec.nics[index]
    ips: tuple[str, ...] = (nic.ip,) if nic.ip else ()
    if not ips and isinstance(nic.network, StaticNetwork) and nic.script:
        ips = tuple(a.split("/")[0] for a in nic.network.addresses)
    return Nic(
        mac=mac_of(spec, index),
        bridge=nic.bridge,
        ips=ips,
        model=nic.model,
        script=nic.script,
        rate=Rate.parse(nic.rate) if nic.rate else None,
        type=nic.type,
        gatewaydev=nic.gatewaydev,
    )
