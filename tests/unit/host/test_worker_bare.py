"""Where no namespaces can be made, a worker still reaches nothing, and says what is missing."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NEWUSER = 0x10000000  # linux/sched.h, CLONE_NEWUSER

# A container whose users are 0 to 9999, and which may make no other.
INSIDE = """
import json, os, sys
open("/proc/sys/user/max_user_namespaces", "w").write("0")
user = int(sys.argv[1])
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
from support import misbehaving as m
from imagekit.errors import ImageError
from imagekit.host import worker
from imagekit.host.program import confined, given
from imagekit.host.run import run
def ask(function, *arguments):
    try:
        limits = worker.Limits(memory=256 << 20, cpu_seconds=5)
        return worker.Confined(function, "it", limits)("name", [], *arguments)
    except ImageError as error:
        return error.what
answers = {
    "missing": worker.missing_confinement(m.__name__),
    "open": ask(m.open_by_name, "/etc/passwd"),
    "make": ask(m.make_file, "/tmp/imagekit-made-by-a-worker"),
    "remove": ask(m.remove, sys.argv[2]),
    "connect": ask(m.connect, 22),
    "fork": ask(m.fork),
    "execute": ask(m.execute),
    "kill": ask(m.signal_all, os.getpid()),
    "memory": ask(m.take_memory, 1 << 30),
}
with open(sys.argv[2], "rb") as stream:
    fd = stream.fileno()
    answers["cat"] = run(confined(["cat", given(fd)], readable=[fd]), pass_fds=[fd]).text
print(json.dumps(answers))
"""


def in_a_container(user: int, file: Path) -> dict[str, object]:
    """What INSIDE answers, run by ``user`` of such a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, tell = os.pipe()
    mapped, go = os.pipe()

    def enter() -> None:
        if libc.unshare(NEWUSER) != 0:
            os._exit(77)
        os.write(tell, str(os.getpid()).encode())
        if not os.read(mapped, 1):
            os._exit(78)
        os.setresuid(0, 0, 0)

    child = os.fork()
    if child == 0:  # Popen waits for its child's exec, which waits for what we write here
        try:
            pid = os.read(ready, 20).decode()
            for table in ("gid_map", "uid_map"):
                Path(f"/proc/{pid}/{table}").write_text("0 0 10000\n")
            os.write(go, b"x")
        finally:
            os._exit(0)
    os.close(go)
    try:
        done = subprocess.run(
            [sys.executable, "-B", "-c", INSIDE, str(user), str(file)],
            preexec_fn=enter,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            timeout=120,
            check=False,
        )
    finally:
        os.waitpid(child, 0)
        for fd in (ready, tell, mapped):
            os.close(fd)
    assert done.returncode == 0, done.stderr.decode()
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("user", [0, 1000])
def test_without_user_namespaces_the_limits_and_the_filter_hold(user: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing: root, who makes a container without user namespaces")
    with tempfile.NamedTemporaryFile() as stream:  # tmp_path is closed to other users
        stream.write(b"content")
        stream.flush()
        Path(stream.name).chmod(0o644)
        answers = in_a_container(user, Path(stream.name))
        assert Path(stream.name).read_text() == "content"
    refused = {name for name, said in answers.items() if str(said).startswith("refused")}
    assert refused == {"open", "make", "remove", "connect", "fork", "execute", "kill"}
    assert "needs more than 256 MiB" in str(answers["memory"])
    assert answers["cat"] == "content"
    assert ("namespaces" in str(answers["missing"])) == (user != 0)
