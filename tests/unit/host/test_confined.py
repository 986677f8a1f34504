"""What a confined program still has and can do, told by a program in its place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagekit.host import confined
from imagekit.host.confined import Confinement, new_user, usable, user_of_domain
from imagekit.host.confined_child import FAILED
from imagekit.proof.bootserver import write_program

PYTHON = "/usr/bin/python3"
"""One that every user can run."""
ATTEMPTS = """
import ctypes, json, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
done = []
def attempt(what, call):
    try:
        if call() not in (-1, None, False):
            done.append(what)
    except OSError:
        pass
os.chdir(sys.argv[1])
attempt("symlink", lambda: os.symlink("/etc/passwd", "s") or os.path.lexists("s"))
attempt("link", lambda: os.link("mine", "l") or os.path.lexists("l"))
attempt("fifo", lambda: os.mkfifo("f") or os.path.lexists("f"))
attempt("user namespace", lambda: libc.unshare(0x10000000))
attempt("io_uring", lambda: libc.syscall(425, 1, 0))
attempt("ptrace", lambda: libc.ptrace(0, 0, 0, 0))
attempt("keys", lambda: libc.syscall({"x86_64": 250, "aarch64": 219}[machine], 0, -3, 0, 0, 0))
attempt("clone into a namespace",
    lambda: libc.syscall({"x86_64": 56, "aarch64": 220}[machine], 0x10000011, 0, 0, 0, 0))
attempt("set uid", lambda: os.setuid(0) or os.getuid() == 0 != int(sys.argv[2]))
attempt("hostname", lambda: socket.sethostname("x") or True)
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 5))
thread = threading.Thread(target=lambda: done.append("thread"))
thread.start()
thread.join()
subprocess.run(["/bin/true"], check=True)
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
cards = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
fds = sorted(map(int, os.listdir("/proc/self/fd")))
print(json.dumps({"done": done, "status": status, "fds": fds, "cards": cards}))
"""


def run(confinement: Confinement, *words: str, **options: Any) -> Any:
    """What the program prints, as JSON."""
    pass_fds = options.pop("pass_fds", ())
    argv = confinement.argv([PYTHON, "-c", *words], **options)
    done = subprocess.run(argv, capture_output=True, pass_fds=pass_fds, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture
def listening() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_nothing_is_left_but_being_oneself(tmp_path: Path, listening: socket.socket) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "mine").touch()
    uid = new_user()
    where = os.open(tmp_path, os.O_RDONLY)
    port = str(listening.getsockname()[1])
    found = run(
        Confinement(uid, network="none"),
        *(ATTEMPTS, "/proc/self/fd/150", str(uid), port),
        numbers={where: 150},
        pass_fds=[where],
    )
    os.close(where)
    expected = ["thread"] if found["cards"] == ["lo"] else ["loopback", "thread"]
    assert found["done"] == expected
    if os.geteuid() == 0:
        assert found["cards"] == ["lo"]
        assert found["status"]["Uid"].split() == [str(uid)] * 4
        assert found["status"]["Gid"].split() == [str(uid)] * 4
        assert found["status"]["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if os.geteuid() == 0 or name != "CapBnd":
            assert int(found["status"][name], 16) == 0, name
    assert found["status"]["NoNewPrivs"] == "1"
    assert set(found["fds"]) - {3} == {0, 1, 2, 150}


def test_descriptors_get_their_numbers_whatever_theirs_were(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    opened = [os.open(tmp_path / name, os.O_RDONLY) for name in "abc"]
    # Each wants a number that another has.
    numbers = dict(zip(opened, [opened[1], opened[2], opened[0]], strict=True))
    script = (
        "import json, os, sys\n"
        "print(json.dumps([os.read(int(n), 9).decode() for n in sys.argv[1:]]))"
    )
    words = [str(number) for number in numbers.values()]
    found = run(Confinement(new_user()), script, *words, numbers=numbers, pass_fds=opened)
    assert found == ["a", "b", "c"]


def test_limits_hold_for_what_it_starts() -> None:
    script = "import json, resource; print(json.dumps(resource.getrlimit(resource.RLIMIT_CPU)))"
    found = run(Confinement(new_user(), limits={"CPU": 7}), script)
    assert found == [7, 7]


def test_a_program_that_cannot_be_confined_is_not_run(tmp_path: Path) -> None:
    argv = Confinement(None).argv(["/bin/true"])
    job = json.loads(argv[-2])
    argv[-2] = json.dumps({**job, "parent": 1 if os.getpid() != 1 else 2})
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == FAILED
    assert done.stderr.decode() == "true cannot be confined: who started it has ended\n"
    argv[-2:] = [json.dumps(job), str(tmp_path / "missing")]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == FAILED and b"missing cannot be confined: " in done.stderr


def test_the_child_runs_out_of_an_archive_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_program(tmp_path / "pypxeboot")
    libraries = [path for path in sys.path if not Path(path, "imagekit").exists()]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "pypxeboot"), *libraries])
    argv = Confinement(new_user()).argv([PYTHON, "-c", "print(7)"])
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"7\n"


def test_users_are_new_for_runs_and_lasting_for_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(confined, "_mapped", lambda _uid: True)
    assert len({new_user() for _ in range(50)}) == 50
    assert all(0x70000000 <= (new_user() or 0) < 0x78000000 for _ in range(50))
    assert user_of_domain(7) == user_of_domain(7) == 0x78000007
    assert 0x78000000 <= (user_of_domain(1 << 40) or 0) < 0x80000000


def test_where_ids_are_few_it_is_nobody_or_oneself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(confined, "TABLES", (tmp_path / "map",))
    for table, expected in (
        ("0 100000 65536\n", 65534),
        ("0 1000 1\n", None),
        ("0 1000 1\n1 100000 65536\n", 65534),
        ("0 0 4294967295\n", 1234567890),
    ):
        (tmp_path / "map").write_text(table)
        assert usable(1234567890) == expected
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert usable(1234567890) is None
