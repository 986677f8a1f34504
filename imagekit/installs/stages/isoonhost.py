"""The stage that emits an installation from ISO for a Xen host instead of running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.disk.extents import copy_sparse
from imagekit.disk.isoread import read_iso
from imagekit.errors import CapabilityError
from imagekit.installs.build_facts import ABLE_KERNEL
from imagekit.installs.context import BuildContext
from imagekit.installs.stages import onhost
from imagekit.installs.stages.configs import checked_directory, config_path
from imagekit.installs.stages.onhost_script import script
from imagekit.kernel.report import Bootable
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.spec.derived import effective_disk
from imagekit.spec.install import Iso
from imagekit.toolstacks.registry import modules_of


class IsoOnHost(Stage):
    """Takes kernel and initrd out of the remastered ISO; writes xl's configs and the script."""

    name: ClassVar[str] = "on-host"
    title: ClassVar[str] = "writing the installation for a Xen host"
    needs = ("install.iso", "remaster.json")

    def __init__(self, context: BuildContext, install: Iso) -> None:
        self._context = context
        self._file = context.file
        self._spec = context.spec
        self._install = install
        self._out = checked_directory(context.out)
        self.loads = modules_of(["xl"])
        # Tried before anything is fetched: a spec that xl has no words for fails at once.
        self._trial = self._texts(ABLE_KERNEL, "")
        self._kernel, self._initrd = onhost.kernel_files(self._spec)
        self._script = f"{self._spec.name}.on-host.sh"
        self.makes = ("host.iso", self._kernel, self._initrd, self._script, *self._trial)

    def targets(self) -> list[Target]:
        """What is delivered: the ISO, the installer's kernel and initrd, configs and script."""
        found = [
            Target("host.iso", f"{self._spec.name}.iso", "installer-iso", 0o600),
            Target(self._kernel, self._kernel, "installer-kernel"),
            Target(self._initrd, self._initrd, "installer-initrd", 0o600),
            Target(self._script, self._script, "install-script", 0o755),
        ]
        for mode in self._spec.boot.modes:
            fields = {"toolstack": "xl", "mode": mode}
            installing = install_path(config_path(self._spec, "xl", mode))
            found.append(Target(installing, installing, "install-config", 0o644, fields))
            final = config_path(self._spec, "xl", mode)
            found.append(Target(final, final, "domain-config", 0o644, fields))
        return found

    def key(self) -> Mapping[str, Any]:
        return {
            "texts": self._trial,
            "script": self._script_text(),
        }

    def run(self, run: StageRun) -> None:
        self._context.hide_secrets(run.workspace.events)
        report = json.loads(run.inputs["remaster.json"].read_text())
        iso = run.inputs["install.iso"]
        kernel, initrd = run.output / self._kernel, run.output / self._initrd
        read_iso(iso, {report["kernel"]: kernel, report["initrd"]: initrd})
        initrd.chmod(0o600)
        copy_sparse(iso, run.output / "host.iso")
        try:
            found = onhost.installer_evidence(kernel, initrd, self._spec.boot.modes)
        except CapabilityError as error:
            error.where = self._file.where("boot", "modes")
            error.hint = "an installer without this mode can still run in HVM"
            raise
        path, line = next(iter(report["arguments"].items()))
        texts = self._texts(found, onhost.menu_arguments(path, line))
        for name, text in texts.items():
            (run.output / name).write_text(text)
        (run.output / self._script).write_text(self._script_text())
        run.note("nothing was installed: the boot paths follow from the answers, not from an image")

    def _texts(self, kernel: Bootable, args: str) -> dict[str, str]:
        """Config texts by file name."""
        spec, install = self._spec, self._install
        uefi = install.firmware == "uefi"
        facts = onhost.expected_facts(spec, kernel, uefi=uefi, out=self._out)
        files = [str(self._out / name) for name in onhost.kernel_files(spec)]
        texts = {}
        for mode in spec.boot.modes:
            domain = onhost.iso_domain(
                facts,
                mode,
                iso=str(self._out / f"{spec.name}.iso"),
                kernel=files[0],
                initrd=files[1],
                args=args,
                memory=install.memory,
            )
            name = config_path(spec, "xl", mode)
            texts[install_path(name)] = onhost.text(domain, facts, "xl")
            texts[name] = onhost.text(onhost.final_domain(facts, mode), facts, "xl")
        return texts

    def _script_text(self) -> str:
        spec = self._spec
        size = effective_disk(spec.disk).size
        return script(spec.name, self._out, spec.boot.modes, size, self._install.timeout)


def install_path(name: str) -> str:
    """NAME.MODE.install.xl.cfg beside NAME.MODE.xl.cfg."""
    return f"{name.removesuffix('.xl.cfg')}.install.xl.cfg"
