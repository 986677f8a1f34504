"""The stage that installs a guest over the network, in QEMU, from a tree of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.answers.context import static_network
from imagekit.disk import raw
from imagekit.domain.bootpath import CONSOLES
from imagekit.host.kvm import kvm_works
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.machine import Hardware
from imagekit.installs.netboot_tree import arguments, host_address, netboot_guest, serving
from imagekit.installs.reach import reach_of
from imagekit.installs.stages.installing import disk_bus, install_on
from imagekit.netboot import publish, tree
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.derived import effective_disk, mac_of
from imagekit.spec.install import Netboot
from imagekit.vm.card import NetworkBoot
from imagekit.vm.gate import Endpoint

PROGRAM = "boot.ipxe"
"""QEMU's PXE ROMs are iPXE, which runs the tree's script where others would load PXELINUX."""


class InstallFromNetwork(Stage):
    """Publishes the guest, boots QEMU by its PXE ROM, and waits until the installer powers off."""

    name: ClassVar[str] = "install"
    title: ClassVar[str] = "running the installer over the network"
    needs = ("installer.kernel", "installer.initrd", "answers")
    makes = ("installed.raw", "netboot.json")

    def __init__(self, context: BuildContext, install: Netboot) -> None:
        self._context = context
        self._spec = context.spec
        self._install = install
        self._host = host_address(context.file)

    def key(self) -> Mapping[str, Any]:
        return {
            "size": effective_disk(self._spec.disk).size,
            "memory": self._install.memory,
            "mac": mac_of(self._spec, 0),
            "args": arguments(self._spec, self._install, CONSOLES["hvm"]),
            "reach": [[end.host, end.port] for end in reach_of(self._spec, self._install)],
            "tools": tool_versions(["qemu-system-x86_64"]),
        }

    def run(self, run: StageRun) -> None:
        self._context.hide_secrets(run.workspace.events)
        disk = run.output / "installed.raw"
        raw.create(disk, effective_disk(self._spec.disk).size)
        disk.chmod(0o600)
        root = run.workspace.temporary("netboot")
        guest = netboot_guest(
            self._spec,
            self._install,
            run.inputs["installer.kernel"],
            run.inputs["installer.initrd"],
            run.inputs["answers"].read_text(),
            CONSOLES["hvm"],
        )
        with serving(root, run.logs / "http.log") as port:
            publish.publish(publish.Site(root, "", f"http://{self._host}:{port}"), [guest])
            self._boot(run, disk, root, Endpoint(self._host, port))
        by = "the installer" if mode_of(root, guest.name) == "local" else "imagekit"
        publish.flip(root, guest.name, "local")
        record = tree.load(root).guests[guest.name]
        value = {"mode": record.mode, "flipped_by": by, "kernel": record.kernel}
        (run.output / "netboot.json").write_text(json.dumps(value, indent=1))

    def _boot(self, run: StageRun, disk: Path, root: Path, answers: Endpoint) -> None:
        install = self._install
        verdict = kvm_works(run.workspace.directory.parent.parent)
        if not verdict.works:
            run.note(f"the installer runs without KVM, which takes long: {verdict.reason}")
        hardware = Hardware(
            media=NetworkBoot(root / "tftp", PROGRAM),
            disk=disk,
            memory=install.memory,
            kvm=verdict.works,
            mac=mac_of(self._spec, 0),
            bus=disk_bus(self._spec, install),
            static=static_network(self._spec),
            reach=(answers, *reach_of(self._spec, install)),
        )
        install_on(hardware, install, run)


def mode_of(root: Path, name: str) -> str:
    """Whether guest ``name`` of the tree installs itself or boots its own disk."""
    return tree.load(root).guests[name].mode
