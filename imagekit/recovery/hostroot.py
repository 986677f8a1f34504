"""What a bundle brings that acts as root on the host: to be read before it takes effect."""

from __future__ import annotations

import json
from collections.abc import Iterator

from imagekit.domain.facts import BuildFacts, facts_of
from imagekit.recovery.unpacked import Bundle
from imagekit.spec.install import Debootstrap, DiskimageBuilder
from imagekit.spec.manifest import MANIFEST
from imagekit.spec.model import Spec


def acting_as_root(bundle: Bundle, *, rebuilt: bool) -> list[str]:
    """One line for each setting of the configs, and, if it is ``rebuilt``, of the build.

    Values are shown as JSON: a bundle cannot put control characters on a terminal.
    """
    found: list[str] = []
    if bundle.manifest.facts is not None:
        found += _of_configs(facts_of(bundle.manifest, f"{MANIFEST} of the bundle"))
    if bundle.recipe is not None and rebuilt:
        found += _of_spec(bundle.recipe.spec.spec)
    return list(dict.fromkeys(found))


def _of_configs(facts: BuildFacts) -> Iterator[str]:
    for index, nic in enumerate(facts.nics):
        if nic.script:
            yield f"nics[{index}].script: {_shown(nic.script)}, run by dom0"
    for toolstack, settings in facts.raw.items():
        for key, value in settings.items():
            yield f"machine.raw: {_shown(toolstack)} gets {_shown(key)} = {_shown(value)}"


def _of_spec(spec: Spec) -> Iterator[str]:
    for index, nic in enumerate(spec.nics):
        if nic.script:
            yield f"nics[{index}].script: {_shown(nic.script)}, run by dom0"
    for toolstack, settings in spec.machine.raw.items():
        for key, value in settings.items():
            yield f"machine.raw: {_shown(toolstack)} gets {_shown(key)} = {_shown(value)}"
    for script in spec.scripts:
        yield f"scripts: {_shown(script)}, run while the disk is built"
    install = spec.install
    if isinstance(install, Debootstrap | DiskimageBuilder):
        for path in install.element_path:
            yield f"install.element_path: {_shown(path)}, elements run while the disk is built"


def _shown(value: object) -> str:
    return json.dumps(value)
