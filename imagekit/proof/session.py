"""Starts one guest after another in a running lab and brings back what was seen of each."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagekit.errors import ImagekitError, ToolError
from imagekit.pipeline.events import Events
from imagekit.proof.boots import LAB_PATHS, Trial
from imagekit.proof.bootserver import program_path, write_program
from imagekit.proof.busy import Allotment, Stopwatch
from imagekit.proof.circling import ATTEMPTS, Circling
from imagekit.proof.console import Follower
from imagekit.proof.machine import Machine
from imagekit.proof.overlay import Overlaid, make_overlay
from imagekit.proof.unpack import Unpacker, share_directory

CREATE_TIMEOUT = 240.0
"""Seconds for xl create or virsh start: pygrub reads the disk, an HVM device model starts."""

COMMAND_SECONDS = 240
"""For proof.command; the host waits somewhat longer before it gives up the lab."""

LIMIT = 7200.0
"""Seconds after which dom0 ends a guest by itself; the host does so long before."""

MAX_RESULT = 1 << 20
SETTLE = 1.5
"""Seconds in which a lost guest may still say why."""


@dataclass(frozen=True)
class Rules:
    """What counts as up, and how long to wait (seconds), for every guest of a proof.

    Time in which a busy host gave the machine no processor is not counted. An HVM guest whose
    firmware the emulation loses is started ``attempts`` times in all.
    """

    up: re.Pattern[str]
    timeout: float | None = None
    base_timeout: float = 300.0
    command: str | None = None
    attempts: int = ATTEMPTS

    def seconds(self, mode: str) -> float:
        """How long a guest may take: as asked for, or longer for nested emulation (HVM)."""
        if self.timeout is not None:
            return self.timeout
        return self.base_timeout * (4 if mode == "hvm" else 1)


@dataclass
class Seen:
    """What is known of one guest after its trial; ``directory`` holds its logs.

    ``seconds`` is what the last attempt took; ``allotment`` is about all attempts.
    """

    trial: Trial
    directory: Path
    verdict: str
    seconds: float
    allotment: Allotment
    result: dict[str, Any] = field(default_factory=dict)


class Session:
    """A lab that is up, with its shared directories."""

    def __init__(
        self, lab: Machine, share: Path, files: Path, scratch: Path, events: Events
    ) -> None:
        self._lab = lab
        self._jobs = share / "jobs"
        self._out = share / "out"
        self._files = files
        self._scratch = scratch
        self._events = events
        self._shipped: dict[Path, str] = {}
        self._target = 0
        for directory in (self._jobs, self._out):
            share_directory(directory)
        self._awake = share / "awake"
        self._unpacker = Unpacker(share, files)

    def begin(self, timeout: float = 60) -> None:
        """Wake dom0's agent; raises ToolError."""
        self._lab.say(f"go {time.time():.3f}")
        deadline = time.monotonic() + timeout
        while not self._awake.exists():
            if time.monotonic() > deadline or not self._lab.alive():
                raise ToolError("the lab does not answer")
            time.sleep(0.05)

    def run(self, trial: Trial, number: int, rules: Rules) -> Seen:
        """Start the guest of ``trial``, wait until it is up or lost, and end it."""
        ident = f"{number:02d}-{trial.ident}"
        targets: list[int] = []
        try:
            request = self._request(trial, ident, rules, targets)
            self._give(f"{ident}.cfg", trial.config.data)
            self._give(f"{ident}.json", json.dumps(request).encode())
            return self._watch(trial, ident, rules)
        finally:
            if self._lab.alive():
                for target in targets:
                    self._lab.remove_disk(target)
                    self._overlay(target).unlink(missing_ok=True)

    def _request(
        self, trial: Trial, ident: str, rules: Rules, targets: list[int]
    ) -> dict[str, Any]:
        config = trial.config
        devices = []
        for disk in config.disks:
            if disk.path is None:
                continue
            host = trial.host_path(disk.path)
            self._target += 1
            overlay = self._overlay(self._target)
            make_overlay(disk, host, overlay)
            self._lab.add_disk(self._target, Overlaid(host, overlay))
            targets.append(self._target)
            devices.append({"path": disk.path, "target": self._target, "readonly": disk.readonly})
        files = [
            {"path": name, "file": self._ship(trial.host_path(name))}
            for name in (config.kernel, config.ramdisk)
            if name and not name.startswith(LAB_PATHS) and config.boot != "netboot"
        ]
        if program := program_path(config.bootloader):
            write_program(self._files / "pypxeboot")
            files.append({"path": program, "file": "pypxeboot"})
        return {
            "id": ident,
            "toolstack": config.toolstack,
            "name": config.name,
            "type": config.mode,
            "devices": devices,
            "files": files,
            "macs": [nic.mac for nic in config.nics if nic.mac],
            "create_timeout": CREATE_TIMEOUT,
            "timeout": LIMIT,
            "command": bounded_command(rules.command),
        }

    def _overlay(self, target: int) -> Path:
        return self._scratch / f"overlay-{target}.qcow2"

    def _ship(self, source: Path) -> str:
        """Put a kernel or initrd where dom0 can read it, once."""
        known = self._shipped.get(source)
        if known is None:
            known = self._shipped[source] = f"file-{len(self._shipped)}"
            shutil.copyfile(source, self._files / known)
            (self._files / known).chmod(0o644)
        return known

    def _watch(self, trial: Trial, ident: str, rules: Rules) -> Seen:
        out = self._out / ident
        followers = [Follower(out / f"{name}.log", rules.up) for name in ("console", "serial")]
        watch = whole = Stopwatch(self._lab.stolen)
        allowed = rules.seconds(trial.config.mode)
        verdict, took = "", 0.0
        circling, attempt, emulated_twice = Circling(self._lab), 1, trial.config.mode == "hvm"
        announce(self._events, trial.ident, f"booting {trial.config.name}")
        while not (out / "result.json").exists():
            if not self._lab.alive():
                raise self._lab.failed("the lab ended while it ran a guest")
            self._unpacker.serve()
            signs = [follower.look() for follower in followers]
            now = watch.read()
            passed, counted = now.passed, now.had
            if not verdict and "up" in signs:
                verdict, took = "up", passed
                self._stop(ident, "up")
            elif not verdict and ("lost" in signs or counted > allowed):
                verdict, took = ("lost" if "lost" in signs else "timeout"), passed
                time.sleep(SETTLE)
                self._stop(ident, "down")
            elif counted > allowed + CREATE_TIMEOUT + 120:
                raise self._lab.failed("the lab does not end a guest")
            elif emulated_twice and not verdict and circling.look():
                if attempt >= rules.attempts:
                    verdict, took = "circling", passed
                    self._stop(ident, "down")
                    continue
                text = f"{trial.ident}: the emulation lost its firmware; starting it anew"
                self._events.emit("note", text=text)
                (self._jobs / f"{ident}.again-{attempt}").touch()
                circling, attempt = Circling(self._lab), attempt + 1
                watch = Stopwatch(self._lab.stolen)
            time.sleep(0.1)
        result = _read_result(out / "result.json")
        if not verdict:
            verdict, took = str(result.get("ended", "create")), watch.read().passed
        conclude(self._events, trial.ident, verdict, took)
        return Seen(trial, out, verdict, took, whole.read(), result)

    def _stop(self, ident: str, word: str) -> None:
        self._give(f"{ident}.stop", word.encode())

    def _give(self, name: str, data: bytes) -> None:
        """Put a file into the directory of jobs, all of it at once, for dom0 to read."""
        part = self._jobs / f"{name}.part"
        part.write_bytes(data)
        part.chmod(0o644)
        part.rename(self._jobs / name)


def bounded_command(command: str | None) -> str | None:
    """``command`` for dom0's shell, ended (with status 124, timeout(1)) when it takes too long."""
    return f"timeout {COMMAND_SECONDS} sh -c {shlex.quote(command)}" if command else None


def announce(events: Events, ident: str, title: str) -> None:
    """Say that a boot begins; it is shown as stages are."""
    events.emit("stage-started", stage=ident, title=title, key="")


def conclude(events: Events, ident: str, verdict: str, seconds: float) -> None:
    """Say how a boot ended, after ``seconds``."""
    if verdict == "up":
        events.emit("stage-finished", stage=ident, cached=False, seconds=round(seconds, 3), key="")
    else:
        events.emit("stage-failed", stage=ident, error=verdict, logs="")


def _read_result(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(MAX_RESULT))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ImagekitError("the lab's agent left no result that can be read")
    return value
