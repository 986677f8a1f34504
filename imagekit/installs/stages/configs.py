"""Facts of the built image, and the domain configs that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk.layout import read_assembled
from imagekit.domain.facts import BuildFacts, facts_text
from imagekit.domain.model import Mode
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.installs.build_facts import ABLE_KERNEL, facts_for, origins, trial_image
from imagekit.installs.context import BuildContext
from imagekit.kernel.report import read_report
from imagekit.pipeline.stage import Stage, StageRun, Target
from imagekit.spec.derived import uuid_of
from imagekit.spec.model import Spec
from imagekit.toolstacks.registry import modules_of, toolstack
from imagekit.toolstacks.wording import config_text


def config_path(spec: Spec, name: str, mode: str) -> str:
    """Name of the domain config for the toolstack ``name`` in the build directory."""
    return f"{spec.name}.{mode}.{toolstack(name).suffix}"


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
        self.loads = modules_of(self._spec.toolstacks)
        self._wording = self._find_wording()
        self.makes = ("facts.json", *(path for path, _t, _m in self._texts()))

    def _texts(self) -> list[tuple[str, str, Mode]]:
        return [
            (config_path(self._spec, name, mode), name, mode)
            for name, modes in self._wording.items()
            for mode in modes
        ]

    def _find_wording(self) -> dict[str, list[Mode]]:
        """The modes each toolstack has words for, tried before anything is built.

        xend knows no PVH, for example. Raises what a toolstack says that can word none of them.
        """
        screen = self._spec.machine.graphics
        if screen is not None and screen.password:
            return {}  # the password is given to "imagekit config", which writes them then
        facts = facts_for(self._spec, ABLE_KERNEL, trial_image(self._spec)).located(str(self._out))
        wording: dict[str, list[Mode]] = {}
        for name in self._spec.toolstacks:
            if not toolstack(name).built:
                continue
            refusals: list[ImagekitError] = []
            for mode in self._spec.boot.modes:
                try:
                    config_text(facts, name, mode)
                    wording.setdefault(name, []).append(mode)
                except (SpecError, CapabilityError) as error:
                    refusals.append(error)
            if name not in wording:
                refusals[0].where = f"{self._file.path}: {name}, {refusals[0].where}"
                raise refusals[0]
        return wording

    def targets(self) -> list[Target]:
        """The configs, as they are delivered."""
        return [
            Target(path, path, "domain-config", 0o600, {"toolstack": name, "mode": mode})
            for path, name, mode in self._texts()
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
        (run.output / "facts.json").write_text(facts_text(facts))
        located = facts.located(str(self._out))
        for path, name, mode in self._texts():
            (run.output / path).write_text(config_text(located, name, mode))

    def _facts(self, run: StageRun) -> BuildFacts:
        """The facts, as far as kernel, initrd and the spec's places do not tell them."""
        kernel = read_report(run.inputs["kernel.json"])
        image = read_assembled(run.inputs["layout.json"])
        return facts_for(self._spec, kernel, image)
