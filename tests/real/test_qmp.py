"""QEMU's machine protocol as the real QEMU speaks it."""

from __future__ import annotations

import socket
import subprocess

import pytest

from imagekit.errors import ToolError
from imagekit.host.run import spawn
from imagekit.vm.qmp import Qmp

pytestmark = pytest.mark.real


def test_qemu_greets_answers_refuses_and_goes() -> None:
    ours, theirs = socket.socketpair()
    argv = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "none"]
    argv += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    with ours, spawn(argv, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL) as child:
        theirs.close()
        qmp = Qmp(ours)
        qmp.greet(60)
        assert qmp.command("query-status")["status"] == "prelaunch"
        with pytest.raises(ToolError, match="refused no-such-command"):
            qmp.command("no-such-command")
        qmp.command("quit")
        assert child.wait(60) == 0
        with pytest.raises(ToolError, match="QEMU is gone"):
            qmp.command("query-status")
