"""The plan of an installation over the network: answers, publish, run, harvest, configs."""

from __future__ import annotations

from imagekit.errors import SpecError
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
from imagekit.installs.stages.netinstalling import InstallFromNetwork
from imagekit.installs.stages.netonhost import NetbootOnHost
from imagekit.installs.stages.netsource import NetbootSource
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Netboot


def plan(context: BuildContext) -> Plan:
    """The stages that install a guest over the network. Downloads and writes nothing.

    With ``on_host`` they make what a boot server and a Xen host need instead. With a lock the
    template must be the lock's, and so must the packages when it is done. Raises SpecError or
    HostError for inputs that are not there.
    """
    file, install = context.file, context.spec.install
    if not isinstance(install, Netboot):
        raise TypeError(f"install.method is {install.method}")
    refuse_unused(file)
    if install.answers == "autoinstall":
        raise SpecError(
            "Ubuntu's installer takes its answers from an ISO here, not over the network",
            where=file.where("install", "answers"),
            hint="use install.method iso",
        )
    if not file.spec.nics:
        raise SpecError("a guest without a NIC cannot boot over the network", where=str(file.path))
    stages: list[Stage] = [NetbootSource(context, install), Answers(context, install)]
    if install.on_host:
        refuse_lock(context)
        emitted = NetbootOnHost(context, install)
        targets = [*emitted.targets(), answers_target(file)]
        return make_plan([*stages, emitted], targets, context.environment)
    return finish(
        context,
        [*stages, InstallFromNetwork(context, install)],
        Harvest(context, golden=install.golden),
        installed_lock(context, install),
        targets=[
            answers_target(file),
            Target("netboot.json", "netboot.json", "netboot-report"),
        ],
    )
