"""Proves an image as an ordinary machine, BIOS or UEFI, in plain QEMU: KVM where it works, or TCG.

For hosts without anything of Xen, and for guests that are HVM only.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imagekit.disk import qemu_img
from imagekit.disk.reading import probe
from imagekit.domain.facts import BuildFacts, facts_in
from imagekit.errors import CapabilityError, ImageError, SpecError
from imagekit.host.kvm import kvm_works
from imagekit.host.run import run
from imagekit.host.versions import package_versions
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.proof.boots import Trial
from imagekit.proof.busy import Allotment, Stopwatch, waited
from imagekit.proof.console import Follower, read_console
from imagekit.proof.diagnose import Evidence, diagnose
from imagekit.proof.findings import findings_of
from imagekit.proof.freespace import full_file_systems
from imagekit.proof.guestmode import KINDS, from_kernel_log
from imagekit.proof.outcome import judged
from imagekit.proof.report import Boot, Failure, ProofReport
from imagekit.proof.session import SETTLE, Rules, announce, conclude
from imagekit.proof.versions import LabVersions, firmware_component, qemu_component
from imagekit.spec.manifest import MANIFEST
from imagekit.vm.card import Bus, Card
from imagekit.vm.handed import Handed
from imagekit.vm.launch import QEMU, file_console, start
from imagekit.vm.options import Board, Processor, option
from imagekit.vm.uefi import find_uefi, require_uefi

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")
_DISK = re.compile(r"\[((?:vd|sd|hd)[a-z])\] [0-9]+ ")
_NIC = re.compile(r"\b(eth[0-9]+|en[a-z][a-z0-9]{1,12}): (?:renamed|Link|\(PCI|Gained)")


@dataclass(frozen=True)
class Plain:
    """One machine to start; ``bus`` is virtio for our own images, ide for anybody's."""

    name: str
    image: Path
    format: str
    firmware: Literal["bios", "uefi"]
    memory_mib: int
    bus: Bus
    source: Path

    @property
    def ident(self) -> str:
        """Its name in the report."""
        return f"{self.name}-{self.firmware}-{self.format}"


def prove_build(
    build: Path, out: Path, events: Events, rules: Rules, formats: Sequence[str]
) -> ProofReport:
    """Prove the build's image with each firmware it has boot code for; raises CapabilityError."""
    facts = facts_in(build)
    if len(facts.disks) != 1:
        raise SpecError("only builds with one disk can be proven in plain QEMU", where=str(build))
    paths = dict(facts.disks[0].paths)
    machines = []
    for kind, there in (("bios", facts.bootloader_bios), ("uefi", facts.bootloader_uefi)):
        for name in formats or [next(iter(paths))]:
            if name not in paths:
                raise CapabilityError(f"the build has no {name} image", where=str(build))
            if there:
                machines.append(_of_facts(facts, Path(paths[name]), name, kind, build))
    if not machines:
        raise CapabilityError(
            "the image has no boot code for BIOS or UEFI",
            where=str(build),
            hint="imagekit prove --under xen boots it as PV or PVH",
        )
    return _prove(machines, out, events, rules)


def _of_facts(facts: BuildFacts, image: Path, image_format: str, kind: str, build: Path) -> Plain:
    firmware: Literal["bios", "uefi"] = "uefi" if kind == "uefi" else "bios"
    source = build / MANIFEST
    return Plain(facts.name, image, image_format, firmware, facts.memory_mib, "virtio", source)


def prove_trials(trials: Sequence[Trial], out: Path, events: Events, rules: Rules) -> ProofReport:
    """Prove the first disk of somebody else's configs as a BIOS machine."""
    machines = []
    for trial in trials:
        disk = next((d for d in trial.config.disks if d.path and not d.cdrom), None)
        if disk is None or disk.path is None:
            raise SpecError("the config has no disk", where=str(trial.config.path))
        image = trial.host_path(disk.path)
        memory = trial.config.memory_mib
        source = trial.config.path
        machines.append(Plain(trial.config.name, image, disk.format, "bios", memory, "ide", source))
    return _prove(machines, out, events, rules)


def _prove(machines: Sequence[Plain], out: Path, events: Events, rules: Rules) -> ProofReport:
    if rules.command:
        raise SpecError("proof.command runs in a dom0", hint="prove it with --under xen")
    verdict = kvm_works()
    seconds: dict[str, float] = {}
    boots = []
    with workspace(events) as space:
        for plain in machines:
            started = time.monotonic()
            boots.append(_boot(plain, space, out, events, rules, kvm=verdict.works))
            seconds[plain.ident] = round(time.monotonic() - started, 1)
    ran_on = _versions("kvm" if verdict.works else "tcg", verdict.reason)
    return ProofReport("qemu", tuple(boots), seconds, (ran_on,))


def _versions(accelerator: str, reason: str) -> LabVersions:
    packages = package_versions(("seabios", "ovmf"))
    uefi = find_uefi()
    return LabVersions(
        accelerator,
        qemu_component(QEMU),
        seabios=firmware_component(SEABIOS, packages.get("seabios")),
        ovmf=firmware_component(uefi.code, packages.get("ovmf")) if uefi else None,
        reason=reason,
    )


def _boot(
    plain: Plain, space: Workspace, out: Path, events: Events, rules: Rules, *, kvm: bool
) -> Boot:
    scratch = space.temporary(plain.ident[:64])
    kept = out / plain.ident
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    console = kept / "console.log"
    console.touch()
    try:
        probe(plain.image, plain.format)
        if plain.format == "qcow2":
            qemu_img.check(plain.image, "qcow2")
    except ImageError as error:
        damage = Failure("image-damaged", error.what, error.hint, str(error.where))
        return _report(plain, console, Ended("damaged", Allotment(0.0, 0.0)), damage)
    overlay = scratch / "overlay.qcow2"
    driver = qemu_img.DRIVERS[plain.format]
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", driver]
    run([*argv, "-b", str(plain.image.absolute()), str(overlay)], timeout=60)
    announce(events, plain.ident, f"booting {plain.name} with {plain.firmware.upper()}")
    handed = Handed()
    command = command_of(plain, overlay, scratch, console, handed, kvm=kvm)
    with (
        (kept / "qemu.log").open("wb") as errors,
        start(command, scratch=scratch, handed=handed, stderr=errors) as started,
    ):
        ended = _watch(started.process, Follower(console, rules.up), rules)
    conclude(events, plain.ident, ended.verdict, ended.allotment.passed)
    return _report(plain, console, ended, _failure(plain, ended, kept))


def _failure(plain: Plain, ended: Ended, kept: Path) -> Failure | None:
    if ended.verdict == "up":
        return None
    text = read_console(kept / "console.log")
    return diagnose(
        Evidence(
            "bare",
            ended.verdict,
            created=ended.verdict != "ended",
            console=text,
            xl=read_console(kept / "qemu.log"),
            bootloader="",
            disks_connected=len(_found(_DISK, text)),
            full=full_file_systems(plain.image, plain.format),
        )
    )


@dataclass(frozen=True)
class Ended:
    """How a machine's boot ended, and what time and processor it had."""

    verdict: str
    allotment: Allotment


def _watch(child: subprocess.Popen[bytes], follower: Follower, rules: Rules) -> Ended:
    watch = Stopwatch(lambda: waited(child.pid))
    allowed = rules.timeout or rules.base_timeout
    while True:
        sign = follower.look()
        now = watch.read()
        if sign == "up":
            return Ended("up", now)
        if sign == "lost":
            time.sleep(SETTLE)
            return Ended("lost", now)
        if child.poll() is not None:
            return Ended("gone" if follower.bytes_seen else "ended", now)
        if now.had > allowed:
            return Ended("timeout", now)
        time.sleep(0.1)


def command_of(
    plain: Plain, overlay: Path, scratch: Path, console: Path, handed: Handed, *, kvm: bool
) -> list[str]:
    """QEMU's command line for ``plain`` with its disk under ``overlay``; raises HostError.

    The guest's console goes to the file ``console``, its UEFI variables into ``scratch``.
    ``handed`` learns which files are in it.
    """
    machine = "q35" if plain.firmware == "uefi" else "pc"
    argv = [QEMU, *Board(Processor.best(kvm=kvm), plain.memory_mib, machine).argv()]
    if plain.firmware == "uefi":
        firmware, own = require_uefi(), scratch / "vars.fd"
        firmware.new_variables(own)
        argv += firmware.argv(handed.file(own, writable=True))
    argv += ["-blockdev", json.dumps(_node(plain, overlay, handed))]
    driver = "virtio-blk-pci" if plain.bus == "virtio" else "ide-hd"
    argv += option("-device", driver, drive="disk", bootindex=1)
    argv += Card(plain.bus, restrict=True).argv()
    return [*argv, *file_console(handed.log(console))]


def _node(plain: Plain, overlay: Path, handed: Handed) -> dict[str, Any]:
    base: dict[str, Any] = {"driver": "file", "filename": str(handed.file(plain.image))}
    if plain.image.is_block_device():
        base["driver"] = "host_device"
    base["read-only"] = True
    return {
        "driver": "qcow2",
        "node-name": "disk",
        "file": {"driver": "file", "filename": str(handed.file(overlay, writable=True))},
        "backing": {"driver": qemu_img.DRIVERS[plain.format], "read-only": True, "file": base},
    }


def _report(plain: Plain, console: Path, ended: Ended, failure: Failure | None) -> Boot:
    text = read_console(console)
    mode = from_kernel_log(text)
    outcome, failure = judged(failure, ended.verdict, ended.allotment)
    return Boot(
        ident=plain.ident,
        name=plain.name,
        mode=plain.firmware,
        boot="firmware",
        format=plain.format,
        config=str(plain.source),
        config_sha256=hashlib.sha256(plain.source.read_bytes()).hexdigest(),
        outcome=outcome,
        seconds=round(ended.allotment.passed, 1) if ended.verdict == "up" else None,
        guest_type=KINDS[mode.kind] if mode else None,
        evidence=mode.evidence if mode else (),
        disks=_found(_DISK, text),
        nics=_found(_NIC, text),
        stolen_seconds=round(ended.allotment.stolen, 1),
        console=str(console),
        findings=findings_of(text, full_file_systems(plain.image, plain.format)),
        failure=failure,
    )


def _found(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(sorted(set(pattern.findall(text))))[:16]
