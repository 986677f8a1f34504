"""The plan of an installation from ISO: answers, remaster, run, harvest, formats, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.installs.stages.answers import Answers
from imagekit.installs.stages.harvestplan import (
    after_install,
    answers_target,
    refuse_lock,
    refuse_unused,
)
from imagekit.installs.stages.installing import InstallFromIso
from imagekit.installs.stages.isoonhost import IsoOnHost
from imagekit.installs.stages.isosource import IsoSource
from imagekit.installs.stages.remastering import Remaster
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Iso
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock


def plan(file: SpecFile, out: Path, lock: Lock | None = None) -> Plan:
    """The stages that install ``file`` from its ISO. Downloads and writes nothing.

    With ``on_host`` they make what a Xen host needs to run the installation itself. With ``lock``
    the ISO and the template must be the lock's, and so must the packages when it is done.

    Raises SpecError or HostError for inputs that are not there.
    """
    install = file.spec.install
    if not isinstance(install, Iso):
        raise TypeError(f"install.method is {install.method}")
    refuse_unused(file)
    if lock is not None:
        install = install.model_copy(update={"sha256": lock.iso_sha256 or install.sha256})
    stages: list[Stage] = [
        IsoSource(file, install),
        Answers(file, install),
        Remaster(file, install),
    ]
    report = Target("remaster.json", "remaster.json", "remaster-report")
    if install.on_host:
        refuse_lock(file, lock)
        emitted = IsoOnHost(file, install, out)
        return make_plan([*stages, emitted], [*emitted.targets(), answers_target(file), report])
    more, targets = after_install(file, out, install, lock, iso="source.iso")
    return make_plan([*stages, InstallFromIso(file, install), *more], [*targets, report])
