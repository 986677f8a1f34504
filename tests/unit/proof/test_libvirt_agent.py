"""What the agent in the lab's dom0 does with libvirt, and what a failure looks like."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from imagekit.proof.diagnose import Evidence, diagnose
from imagekit.proof.dom0 import agent, toolstacks

BANNER = "Connected to domain 'web'\\nEscape character is ^] (Ctrl + ])\\n"
VIRSH = f"""#!{sys.executable}
import os, sys
print("{BANNER}", end="", flush=True)
"""


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called virsh; what is added to it says what follows the banner."""
    program = tmp_path / "bin/virsh"
    program.parent.mkdir()
    program.write_text(VIRSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def no_call(argv: list[str], **_options: object) -> tuple[int, str]:
    raise AssertionError(argv)


def test_the_console_begins_after_what_virsh_says(virsh: Path, tmp_path: Path) -> None:
    with virsh.open("a") as stream:
        stream.write('assert os.isatty(0)\nprint("web login:", *sys.argv[1:])\n')
    console = agent.Console(toolstacks.Libvirt("web", no_call).console(), tmp_path / "console.log")
    assert console.ended.wait(20)
    said = (tmp_path / "console.log").read_text()
    assert said.splitlines()[0] == "web login: --connect xen:///system console --force web"


def test_a_console_that_cannot_be_had_is_an_error_in_virshs_words(virsh: Path) -> None:
    virsh.write_text(f'#!{sys.executable}\nraise SystemExit("error: failed to get domain")\n')
    with pytest.raises(OSError, match="virsh console: error: failed to get domain"):
        toolstacks.Libvirt("web", no_call).console()


class Dom0:
    """Answers the agent's calls: a guest that runs until it is destroyed."""

    def __init__(self, refused: str | None = None) -> None:
        self.refused, self.running = refused, False
        self.said: list[str] = []

    def call(self, argv: list[str], **_options: object) -> tuple[int, str]:
        if argv[0] == "virsh":
            assert argv[1:4] == ["--quiet", "--connect", "xen:///system"]
            self.said.append(" ".join(argv[4:]))
            if argv[4] == self.refused:
                return 1, f"error: Failed to {self.refused} domain\n"
            self.running = {"start": True, "destroy": False}.get(argv[4], self.running)
        elif argv[1] == "domid":
            return (0, "7\n") if self.running else (1, "")
        elif argv == ["xenstore-read", "/local/domain/7/console/tty"]:
            return 0, "/dev/pts/9\n"
        return 0, ""


def ended_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dom0: Dom0) -> dict[str, Any]:
    """The agent's result about a guest of libvirt."""
    monkeypatch.setattr(agent, "call", dom0.call)
    for name, value in (("SHARE", tmp_path), ("DHCP_LOG", tmp_path / "dhcp"), ("DYING", 0.0)):
        monkeypatch.setattr(agent, name, value)
    for name in ("LOGS", "LIBVIRT_LOGS"):
        monkeypatch.setattr(agent, name, tmp_path / "none")
    monkeypatch.setattr(agent.Job, "_place", lambda self: None)
    (tmp_path / "dhcp").touch()
    job = agent.Job({"id": "00-web", "name": "web", "type": "pv", "macs": [], "devices": [],
                     "toolstack": "libvirt", "files": [], "command": None, "create_timeout": 9,
                     "timeout": 30})  # fmt: skip
    job.run()
    result: dict[str, Any] = json.loads((job.out / "result.json").read_text())
    return result


def test_a_guest_whose_console_closes_while_it_runs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, virsh: Path
) -> None:
    with virsh.open("a") as stream:
        stream.write("sys.exit('error: cannot lock the device')\n")
    dom0 = Dom0()
    result = ended_job(tmp_path, monkeypatch, dom0)
    assert result["ended"] == "unheard"
    assert result["error"] == ("virsh console ended; its last words: error: cannot lock the device")
    assert dom0.said == [
        "define /run/jobs/00-web.cfg",
        "start --paused web",
        "resume web",
        "dumpxml web",
        "destroy web",
        "undefine web",
    ]


def test_a_guest_that_libvirt_does_not_start_leaves_no_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dom0 = Dom0(refused="start")
    result = ended_job(tmp_path, monkeypatch, dom0)
    assert result["create_status"] == 1
    assert dom0.said[-1] == "undefine web"
    assert (tmp_path / "out/00-web/virsh.log").read_text() == "error: Failed to start domain\n"


def test_what_virsh_and_libxl_say_is_in_the_report() -> None:
    said = (
        "2026-11-27 07:00:00.100+0000: libxl: libxl_device.c:1337:device_hotplug_child_death_cb: "
        "script: Could not find bridge device xenbr9\n"
        "error: Failed to start domain 'web'\n"
        "error: internal error: libxenlight failed to create new domain 'web'\n"
    )
    failure = diagnose(Evidence("pv", "create", False, "", said, "", toolstack="libvirt"))
    assert failure.cause == "bridge-missing"
    assert failure.libvirt == tuple(said.splitlines())
    assert failure.xl == ()


@pytest.mark.parametrize(
    ("said", "cause", "message"),
    [
        ("error: Failed to define domain from web.xml\nerror: unsupported\n", "not-defined",
         "libvirt does not take the domain's XML"),
        ("error: who knows\n", "create-failed", "libvirt refused to start the guest"),
    ],
)  # fmt: skip
def test_libvirts_refusals_are_told_from_xls(said: str, cause: str, message: str) -> None:
    failure = diagnose(Evidence("pv", "create", False, "", said, "", toolstack="libvirt"))
    assert (failure.cause, failure.message) == (cause, message)
    assert failure.hint is not None and "own words are below" in failure.hint


def test_a_start_that_takes_too_long_is_virshs() -> None:
    late = Evidence("pv", "create", False, "", "", "", create_late=True, toolstack="libvirt")
    assert diagnose(late).message == "virsh start did not end in time"
