"""The stage that runs an installer on a blank disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.answers.context import static_network, target_of
from imagekit.disk import raw
from imagekit.host.kvm import kvm_works
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.machine import Hardware
from imagekit.installs.reach import reach_of
from imagekit.installs.unattended import Limits, run_installer
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.derived import effective_disk, mac_of
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.model import Spec
from imagekit.vm.card import Bus


class InstallFromIso(Stage):
    """Boots the remastered ISO in QEMU and waits until the installer powers off."""

    name: ClassVar[str] = "install"
    title: ClassVar[str] = "running the installer"
    needs = ("install.iso",)
    makes = ("installed.raw",)

    def __init__(self, context: BuildContext, install: Iso) -> None:
        self._context = context
        self._spec = context.spec
        self._install = install

    def key(self) -> Mapping[str, Any]:
        return {
            "size": effective_disk(self._spec.disk).size,
            "firmware": self._install.firmware,
            "memory": self._install.memory,
            "mac": mac_of(self._spec, 0) if self._spec.nics else "",
            "reach": [[end.host, end.port] for end in reach_of(self._spec, self._install)],
            "tools": tool_versions(["qemu-system-x86_64"]),
        }

    def run(self, run: StageRun) -> None:
        spec, install = self._spec, self._install
        self._context.hide_secrets(run.workspace.events)
        disk = run.output / "installed.raw"
        raw.create(disk, effective_disk(spec.disk).size)
        disk.chmod(0o600)
        verdict = kvm_works(run.workspace.directory.parent.parent)
        if not verdict.works:
            run.note(f"the installer runs without KVM, which takes long: {verdict.reason}")
        hardware = Hardware(
            media=run.inputs["install.iso"],
            disk=disk,
            memory=install.memory,
            kvm=verdict.works,
            firmware=install.firmware,
            mac=mac_of(spec, 0) if spec.nics else "52:54:00:12:34:56",
            bus=disk_bus(spec, install),
            static=static_network(spec),
            reach=reach_of(spec, install),
        )
        install_on(hardware, install, run)


def install_on(hardware: Hardware, install: Iso | Netboot, run: StageRun) -> None:
    """Run the installer within the limits the spec sets; raises as :func:`run_installer`."""
    run_installer(
        hardware,
        Limits(install.timeout, install.idle),
        scratch=run.workspace.temporary("install"),
        logs=run.logs,
        note=run.note,
        mask=run.workspace.events.mask,
    )


def disk_bus(spec: Spec, install: Iso | Netboot) -> Bus:
    """RHEL 5's installer has no driver for a virtio disk in its first releases."""
    os_ = spec.os
    name = target_of(install.answers, install.release, os_.suite, os_.distribution).name
    return "ide" if name == "RHEL5" else "virtio"
