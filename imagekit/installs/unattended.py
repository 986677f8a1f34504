"""Runs an installer to its end, and says why when it does not get there.

Nothing is typed, and no wait is for a fixed time: the installer is over when it powers the machine
off, and stuck when neither its consoles nor its disk have changed for a while.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import HostError, ToolError
from imagekit.installs.machine import Hardware, Machine, Mask, machine

FAILURES: tuple[tuple[str, str], ...] = (
    (r"installation step failed", "a step of debian-installer failed"),
    (r"Debootstrap Error|Unable to install the base system|Failed to install the base system",
     "debian-installer could not install the base system"),
    (r"No root file system is defined|Failed to partition the selected disk|"
     r"partman.*(No space left|too small)", "debian-installer could not partition the disk"),
    (r"Failed to (retrieve|process) the preconfiguration file|Failed to run preseeded command",
     "debian-installer refused the answers"),
    (r"Bad archive mirror|Failed to download a file from the mirror|"
     r"No kernel modules were found", "debian-installer's mirror does not have what it needs"),
    (r"Unable to install GRUB|GRUB installation failed", "GRUB could not be installed"),
    (r"An unknown error has occurred|Pane is dead",
     "the installer crashed"),
    (r"error occurred while parsing the kickstart|The kickstart file is (missing|invalid)|"
     r"Kickstart insufficient", "Anaconda refused the answers"),
    (r"not enough (free )?(disk )?space|No space left on device", "the guest's disk is too small"),
    (r"autoinstall config did not (create|validate)|An error occurred\. Press enter",
     "Ubuntu's installer failed"),
    (r"Could not boot image: |No bootable device",
     "the PXE ROM could not fetch or start the installer"),
    (r"Kernel panic - not syncing", "the installer's kernel panicked"),
    (r"imagekit: installation failed", "the installer says that it failed"),
)  # fmt: skip
"""Screens and log lines by which installers say that they gave up, and what each means."""

STEPS: tuple[str, ...] = (
    r"Menu item '([\w-]+)' selected",  # debian-installer's syslog
    r"^imagekit: (.{1,80})",  # our own templates
    r"^((?:Starting|Running|Installing|Configuring|Performing) [\w -]{3,60}?)(?:\.{2,}|$)",
    r"subiquity/([\w/]+):? start",
)
GRACE_SECONDS = 5.0
# The last line of a question of cdebconf's text frontend, which waits for ever.
QUESTION = re.compile(r"Prompt: '\?' for help")
QUESTION_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """Seconds: ``total`` for the installation, ``idle`` without any sign of life."""

    total: float
    idle: float


def run_installer(
    hardware: Hardware,
    limits: Limits,
    *,
    scratch: Path,
    logs: Path,
    note: Callable[[str], None],
    mask: Mask = lambda text: text,
) -> float:
    """Run the installer until it powers off; returns the seconds it took.

    ``note`` is told each step once; ``mask`` takes secrets out of logs and errors. Raises ToolError
    with the end of the installer's console and syslog, HostError when this host's disk is full or
    QEMU does not start.
    """
    watch = _Watch(note)
    started = time.monotonic()
    with machine(hardware, scratch=scratch, logs=logs, listener=watch.line, mask=mask) as running:
        while running.step(1.0):
            _check(running, watch, limits, started, logs)
        _ended(running, watch, logs)
    return time.monotonic() - started


class _Watch:
    """Looks for steps and failures in what the installer prints."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._last = ""
        self.failure: tuple[float, str] | None = None

    def line(self, _name: str, text: str) -> None:
        for pattern, meaning in FAILURES:
            if self.failure is None and re.search(pattern, text, re.IGNORECASE):
                self.failure = (time.monotonic(), meaning)
        for pattern in STEPS:
            found = re.search(pattern, text)
            if found is not None and found[1] != self._last:
                self._last = found[1]
                self._note(f"installer: {found[1]}")
                break


def _check(machine_: Machine, watch: _Watch, limits: Limits, started: float, logs: Path) -> None:
    now = time.monotonic()
    state = machine_.running
    if state.no_space:
        raise HostError(
            "this host's disk is full, the installation was stopped",
            where=str(logs),
            hint="imagekit cache prune --all, or set IMAGEKIT_CACHE to a larger file system",
        )
    if watch.failure is not None and now - watch.failure[0] > GRACE_SECONDS:
        raise _failed(machine_, watch.failure[1], logs)
    if now - state.active > QUESTION_SECONDS and QUESTION.search(machine_.tail("console", 1)):
        raise ToolError(
            "the installer asks a question that the answers leave open",
            output=machine_.tail("console", 15),
            hint="give an answers template that answers it (install.template); "
            f"whole console and syslog are in {logs}",
        )
    if now - started > limits.total:
        raise _failed(
            machine_,
            f"the installation took longer than {limits.total:.0f} s",
            logs,
            "raise install.timeout",
        )
    if now - state.active > limits.idle:
        raise _failed(
            machine_,
            f"the installer hangs: no console or disk activity for {limits.idle:.0f} s",
            logs,
            "it may be asking a question that the answers leave open; see its console",
        )


def _ended(machine_: Machine, watch: _Watch, logs: Path) -> None:
    reason = machine_.running.reason
    if watch.failure is not None:
        raise _failed(machine_, watch.failure[1], logs)
    if reason == "guest-shutdown":
        return
    if reason == "guest-reset":
        raise _failed(
            machine_,
            "the installer rebooted instead of powering off",
            logs,
            "a crash looks the same; an answers template must end with the machine powered off",
        )
    stderr = machine_.running.process.stderr
    said = stderr.read(4096).decode("utf-8", "replace").strip() if stderr else ""
    raise HostError(f"QEMU ended by itself: {said or reason or 'no reason given'}")


def _failed(machine_: Machine, what: str, logs: Path, hint: str = "") -> ToolError:
    parts = [machine_.tail("console", 15)]
    syslog = machine_.tail("syslog", 10)
    if syslog:
        parts = [machine_.tail("console", 4), "-- the installer's syslog --", syslog]
    advice = f"{hint}; " if hint else ""
    return ToolError(
        what, output="\n".join(parts), hint=f"{advice}whole console and syslog are in {logs}"
    )
