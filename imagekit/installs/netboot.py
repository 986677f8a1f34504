"""The plan of an installation over the network: answers, publish, run, harvest, configs."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.installs.stages.answers import Answers
from imagekit.installs.stages.harvestplan import (
    after_install,
    answers_target,
    refuse_lock,
    refuse_unused,
)
from imagekit.installs.stages.netinstalling import InstallFromNetwork
from imagekit.installs.stages.netonhost import NetbootOnHost
from imagekit.installs.stages.netsource import NetbootSource
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.spec.install import Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock


def plan(file: SpecFile, out: Path, lock: Lock | None = None) -> Plan:
    """The stages that install ``file`` over the network. Downloads and writes nothing.

    With ``on_host`` they make what a boot server and a Xen host need instead. With ``lock`` the
    template must be the lock's, and so must the packages when it is done. Raises SpecError or
    HostError for inputs that are not there.
    """
    install = file.spec.install
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
    stages: list[Stage] = [NetbootSource(file, install), Answers(file, install)]
    if install.on_host:
        refuse_lock(file, lock)
        emitted = NetbootOnHost(file, install, out)
        return make_plan([*stages, emitted], [*emitted.targets(), answers_target(file)])
    more, targets = after_install(file, out, install, lock)
    report = Target("netboot.json", "netboot.json", "netboot-report")
    return make_plan([*stages, InstallFromNetwork(file, install), *more], [*targets, report])
