"""The plan of an installation from ISO: answers, remaster, run, harvest, and how builds end."""

from __future__ import annotations

from imagekit.installs.context import BuildContext
from imagekit.installs.finish import finish
from imagekit.installs.installers import (
    answers_target,
    installed_lock,
    refuse_lock,
    refuse_unused,
)
from imagekit.installs.stages.answers import Answers
from imagekit.installs.stages.harvesting import Harvest
from imagekit.installs.stages.installing import InstallFromIso
from imagekit.installs.stages.isoonhost import IsoOnHost
from imagekit.installs.stages.isosource import IsoSource
from imagekit.installs.stages.remastering import Remaster
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Iso


def plan(context: BuildContext) -> Plan:
    """The stages that install a guest from its ISO. Downloads and writes nothing.

    With ``on_host`` they make what a Xen host needs to run the installation itself. With a lock
    the ISO and the template must be the lock's, and so must the packages when it is done.

    Raises SpecError or HostError for inputs that are not there.
    """
    file, install, lock = context.file, context.spec.install, context.lock
    if not isinstance(install, Iso):
        raise TypeError(f"install.method is {install.method}")
    refuse_unused(file)
    if lock is not None:
        install = install.model_copy(update={"sha256": lock.iso_sha256 or install.sha256})
    stages: list[Stage] = [
        IsoSource(context, install),
        Answers(context, install),
        Remaster(context, install),
    ]
    delivered = [
        answers_target(file),
        Target("remaster.json", "remaster.json", "remaster-report"),
    ]
    if install.on_host:
        refuse_lock(context)
        emitted = IsoOnHost(context, install)
        targets = [*emitted.targets(), *delivered]
        return make_plan([*stages, emitted], targets, context.environment)
    return finish(
        context,
        [*stages, InstallFromIso(context, install)],
        Harvest(context, golden=install.golden),
        installed_lock(context, install, iso="source.iso"),
        targets=delivered,
    )
