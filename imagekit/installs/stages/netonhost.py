"""The stage that emits an installation over the network for a Xen host and a boot server."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

from ruamel.yaml import YAML

from imagekit.domain.bootpath import CONSOLES
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.installs.build_facts import ABLE_KERNEL
from imagekit.installs.context import BuildContext
from imagekit.installs.netboot_tree import ANSWERS_NAMES, arguments
from imagekit.installs.stages import onhost
from imagekit.installs.stages.configs import checked_directory, config_path
from imagekit.kernel.report import Bootable
from imagekit.pipeline.stage import Stage, StageRun, Target, digest_file
from imagekit.spec.derived import mac_of
from imagekit.spec.install import Netboot
from imagekit.spec.model import Spec
from imagekit.toolstacks import registry


class NetbootOnHost(Stage):
    """Writes domain configs that netboot, and the request that ``imagekit netboot publish`` reads.

    The consoles in the kernel's arguments are those of the first mode in ``boot.modes``.
    """

    name: ClassVar[str] = "on-host"
    title: ClassVar[str] = "writing the installation for a boot server and a Xen host"
    needs = ("installer.kernel", "installer.initrd")

    def __init__(self, context: BuildContext, install: Netboot) -> None:
        self._file = context.file
        self._spec = context.spec
        self._install = install
        self._out = checked_directory(context.out)
        self.loads = registry.modules_of(self._spec.toolstacks)
        self._wording = self._texts(ABLE_KERNEL)
        self._kernel, self._initrd = onhost.kernel_files(self._spec)
        self._request = f"{self._spec.name}.netboot.yaml"
        names = (name for name, _toolstack, _mode in self._wording)
        self.makes = (self._kernel, self._initrd, self._request, *names)

    def targets(self) -> list[Target]:
        """What is delivered: the installer's kernel and initrd, the request and the configs."""
        found = [
            Target(self._kernel, self._kernel, "installer-kernel"),
            Target(self._initrd, self._initrd, "installer-initrd"),
            Target(self._request, self._request, "netboot-request"),
        ]
        for name, toolstack, mode in self._wording:
            fields = {"toolstack": toolstack, "mode": mode}
            role = "domain-config" if mode else "pypxeboot-profile"
            found.append(Target(name, name, role, 0o644, fields))
        return found

    def key(self) -> Mapping[str, Any]:
        request = request_text(self._spec, self._install, "", "")
        texts = [[name, text] for (name, _t, _m), text in self._wording.items()]
        return {"texts": texts, "request": request}

    def run(self, run: StageRun) -> None:
        kernel, initrd = run.inputs["installer.kernel"], run.inputs["installer.initrd"]
        shutil.copyfile(kernel, run.output / self._kernel)
        shutil.copyfile(initrd, run.output / self._initrd)
        try:
            found = onhost.installer_evidence(kernel, initrd, self._spec.boot.modes)
        except CapabilityError as error:
            error.where = self._file.where("boot", "modes")
            raise
        for (name, _toolstack, _mode), text in self._texts(found).items():
            (run.output / name).write_text(text)
        digests = digest_file(kernel), digest_file(initrd)
        (run.output / self._request).write_text(request_text(self._spec, self._install, *digests))
        run.note("nothing was installed: publish the request, then create the domain")

    def _texts(self, kernel: Bootable) -> dict[tuple[str, str, str], str]:
        """Texts by (file name, toolstack, mode); a toolstack without words for a mode lacks it."""
        spec = self._spec
        facts = onhost.expected_facts(spec, kernel, uefi=False, out=self._out)
        texts: dict[tuple[str, str, str], str] = {}
        for toolstack in map(registry.toolstack, spec.toolstacks):
            refusals: list[ImagekitError] = []
            if toolstack.netboots is None:
                able = [found.name for found in registry.toolstacks() if found.netboots]
                raise SpecError(
                    f"{toolstack.name} runs no bootloader program that could netboot a guest",
                    where=self._file.where("toolstacks"),
                    hint=f"those that do: {', '.join(able)}",
                )
            for mode in spec.boot.modes:
                try:
                    domain = onhost.netboot_domain(facts, mode, toolstack)
                    name = config_path(spec, toolstack.name, mode)
                    texts[name, toolstack.name, mode] = onhost.text(domain, facts, toolstack.name)
                except (SpecError, CapabilityError) as error:
                    refusals.append(error)
                    continue
                if toolstack.netboots == "profile" and mode != "hvm":
                    name = f"{spec.name}.pypxeboot.toml"
                    texts[name, toolstack.name, ""] = onhost.profile(domain)
            if len(refusals) == len(spec.boot.modes):
                refusals[0].where = f"{self._file.path}: {toolstack.name}, {refusals[0].where}"
                raise refusals[0]
        return texts


def request_text(spec: Spec, install: Netboot, kernel_sha256: str, initrd_sha256: str) -> str:
    """The request (see :mod:`imagekit.netboot.request`) that publishes the guest."""
    kernel, initrd = onhost.kernel_files(spec)
    value = {
        "name": spec.name,
        "mac": mac_of(spec, 0),
        "installer": {
            "kernel": kernel,
            "initrd": initrd,
            "kernel_sha256": kernel_sha256,
            "initrd_sha256": initrd_sha256,
        },
        "args": arguments(spec, install, CONSOLES[spec.boot.modes[0]]),
        "answers": f"{spec.name}.answers",
        "answers_name": ANSWERS_NAMES[install.answers],
    }
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(value, stream)
    return stream.getvalue()
