"""A guest whose firmware was lost is started anew: the host's session and dom0's agent together.

Real files carry what the two say to each other; xl and the machine are stand-ins.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagekit.pipeline.events import Event, Events
from imagekit.proof import circling, session
from imagekit.proof.circling import ATTEMPTS
from imagekit.proof.dom0 import agent
from imagekit.proof.outcome import judged
from imagekit.proof.report import Failure, Outcome

CIRCLE = """
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000000
ESI=00000002 EDI=0000f502 EBP=00000000 ESP=0000fc6a
EIP=0000ff53 EFL=00000046 CPL=0 II=0 A20=1 SMM=0 HLT=0
CS =f000 000f0000 0000ffff
"""
XEN = "RIP=ffff82d040200000 RFL=00000046 CPL=0 II=0 A20=1 SMM=0 HLT=0\nCS =e008 0 ffffffff\n"


class Lab:
    """A machine that is always up; ``registers`` is what its processor does.

    The host takes the share ``busy`` of its time.
    """

    def __init__(self) -> None:
        self.registers = CIRCLE
        self.busy = 0.0
        self.qmp = SimpleNamespace(command=lambda _name, command_line: self.registers)

    def alive(self) -> bool:
        return True

    def stolen(self) -> float:
        return time.monotonic() * self.busy


class Dom0:
    """Answers the agent's calls of xl; the guest says its login in attempt ``good``."""

    def __init__(self, lab: Lab, good: int) -> None:
        self.lab, self.good, self.created, self.running = lab, good, 0, False
        self.out = Path()

    def call(self, argv: list[str], **_options: object) -> tuple[int, str]:
        match argv[1] if argv[0] == agent.XL else "":
            case "-vvv":
                self.created += 1
                self.running = True
            case "unpause" if self.created == self.good:
                self.lab.registers = XEN
                (self.out / "serial.log").write_text("web01 login:\n")
            case "destroy":
                self.running = False
            case "domid":
                return (0, f"{self.created}\n") if self.running else (1, "")
        return 0, ""


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(agent, "SHARE", tmp_path)
    monkeypatch.setattr(agent, "DHCP_LOG", tmp_path / "dhcp")
    monkeypatch.setattr(agent, "LOGS", tmp_path / "none")
    monkeypatch.setattr(agent.Job, "_place", lambda self: None)
    monkeypatch.setattr(circling, "EVERY", 0.0)
    monkeypatch.setattr(circling, "SAMPLES", 5)
    monkeypatch.setattr(session, "SETTLE", 0.0)
    (tmp_path / "dhcp").touch()
    (tmp_path / "jobs").mkdir()
    yield tmp_path


def run(
    share: Path, monkeypatch: pytest.MonkeyPatch, good: int, timeout: float, busy: float = 0.0
) -> Any:
    """What the session saw, the agent's result and the notes, of a guest that comes up late."""
    lab, notes = Lab(), []
    lab.busy = busy
    dom0 = Dom0(lab, good)
    monkeypatch.setattr(agent, "call", dom0.call)
    job = agent.Job({"id": "00-web01", "name": "web01", "type": "hvm", "macs": [], "devices": [],
                     "files": [], "command": None, "create_timeout": 9, "timeout": 99})  # fmt: skip
    dom0.out = job.out

    def note(event: Event) -> None:
        if event.kind == "note":
            notes.append(event.fields["text"])

    host = session.Session(lab, share, share, share, Events([note]))  # type: ignore[arg-type]
    config = SimpleNamespace(mode="hvm", name="web01")
    trial: Any = SimpleNamespace(ident="web01", config=config)
    worker = threading.Thread(target=job.run)
    worker.start()
    try:
        seen = host._watch(trial, "00-web01", session.Rules(re.compile("login:"), timeout))
    finally:
        worker.join(20)
    return seen, json.loads((job.out / "result.json").read_text()), notes


def test_it_comes_up_in_its_third_attempt(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, result, notes = run(share, monkeypatch, good=3, timeout=60)
    assert (seen.verdict, result["attempts"]) == ("up", 3)
    assert notes == ["web01: the emulation lost its firmware; starting it anew"] * 2


def test_one_that_always_runs_in_a_circle_fails_after_the_last_attempt(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, result, notes = run(share, monkeypatch, good=0, timeout=600)
    assert (seen.verdict, result["attempts"]) == ("circling", ATTEMPTS)
    assert seen.seconds < 60
    assert len(notes) == ATTEMPTS - 1


def test_all_attempts_count_when_the_host_was_busy(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _result, _notes = run(share, monkeypatch, good=0, timeout=600, busy=0.5)
    assert seen.verdict == "circling"
    assert seen.allotment.passed > 2 * seen.seconds
    assert seen.allotment.stolen == pytest.approx(seen.allotment.passed / 2, rel=0.2)
    failure = Failure("firmware-lost", "its firmware ran in a circle")
    outcome, worded = judged(failure, seen.verdict, seen.allotment)
    assert outcome is Outcome.INCONCLUSIVE
    assert worded is not None and f"{seen.allotment.stolen:.0f} of" in worded.message
