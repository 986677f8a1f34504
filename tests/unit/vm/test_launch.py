"""A machine is started as nobody we know, with what it is handed and nothing else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagekit.errors import HostError
from imagekit.host.confined import Confinement
from imagekit.vm import launch
from imagekit.vm.gate import Endpoint, Reach
from imagekit.vm.handed import Handed
from imagekit.vm.launch import Line, start

PYTHON = "/usr/bin/python3"
TELL = """
import json, os, socket, sys
line = socket.socket(fileno=80)
found = {"uid": os.getresuid(), "groups": os.getgroups(), "argv": sys.argv[1:]}
found["tmp"] = os.environ["TMPDIR"]
with open(os.environ["TMPDIR"] + "/t", "w") as stream:
    stream.write("mine")
def flags(number):
    return int(open(f"/proc/self/fdinfo/{number}").read().split("flags:")[1].split()[0], 8) & 3
numbers = sorted(int(n) for n in os.listdir("/proc/self/fd") if 100 <= int(n))
found["fds"] = [[n, os.readlink(f"/proc/self/fd/{n}"), flags(n)] for n in numbers]
line.sendall(json.dumps(found).encode() + b"\\n")
line.recv(1)
"""


def told(tmp_path: Path, handed: Handed, **options: Any) -> dict[str, Any]:
    """What a program in QEMU's place finds."""
    argv: list[str | Path] = [PYTHON, "-c", TELL]
    with start(argv, [Line("com1")], scratch=tmp_path, handed=handed, **options) as started:
        with started.lines["com1"].makefile("rb") as stream:
            line = stream.readline()
        if not line and started.process.stderr is not None:
            raise AssertionError(started.process.stderr.read().decode())
        found: dict[str, Any] = json.loads(line)
        return found


def test_it_is_another_user_for_every_run_and_has_what_it_is_handed(tmp_path: Path) -> None:
    disk, log, share = tmp_path / "disk", tmp_path / "log", tmp_path / "share"
    disk.write_bytes(b"x")
    disk.chmod(0o600)
    share.mkdir(mode=0o700)
    seen = []
    for _ in range(2):
        handed = Handed()
        names = [handed.file(disk), handed.file(disk, writable=True), handed.log(log)]
        assert [str(n) for n in names] == ["/dev/fdset/1", "/dev/fdset/2", "/dev/fdset/3"]
        assert str(handed.directory(share)) == "/proc/self/fd/104"
        assert handed.stream(disk) == 105
        found = told(tmp_path, handed)
        assert [tuple(one) for one in found["fds"][:6]] == [
            (100, str(disk), os.O_RDONLY),
            (101, str(disk), os.O_RDONLY),
            (102, str(disk), os.O_RDWR),
            (103, str(log), os.O_WRONLY),
            (104, str(share), os.O_RDONLY),
            (105, str(disk), os.O_RDONLY),
        ]
        added = [
            b for a, b in zip(found["argv"], found["argv"][1:], strict=False) if a == "-add-fd"
        ]
        assert added == [
            *("fd=100,set=1", "fd=101,set=2", "fd=102,set=2", "fd=103,set=3"),
        ]
        assert len(set(found["uid"])) == 1 and found["groups"] == []
        seen.append(found["uid"][0])
    assert log.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        assert len(set(seen)) == 2 and min(seen) >= 0x70000000
    else:
        assert seen == [os.geteuid()] * 2


def test_its_temporary_files_are_where_only_it_may_be(tmp_path: Path) -> None:
    found = told(tmp_path, Handed())
    (own,) = tmp_path.glob("qemu.*")
    assert (own / "t").read_text() == "mine" and own.stat().st_mode & 0o777 == 0o700
    assert own.stat().st_uid == found["uid"][0]


def test_what_cannot_be_opened_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    handed = Handed()
    handed.file(tmp_path / "missing")
    with pytest.raises(HostError, match="cannot be opened for QEMU") as caught:
        told(tmp_path, handed)
    assert caught.value.where == str(tmp_path / "missing")


def test_a_host_that_gives_no_network_of_its_own_is_told_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: Any, **_more: Any) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('qemu cannot be confined: forbidden')"]

    monkeypatch.setattr(Confinement, "argv", refused)
    with pytest.raises(HostError, match="qemu cannot be confined: forbidden") as caught:
        told(tmp_path, Handed(), reach=Reach((Endpoint("192.0.2.1", 80),)))
    assert "unprivileged_userns_clone" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("mode", "gid", "expected"),
    [(0o666, 0, ()), (0o660, 107, (107,)), (0o660, 0, None), (0o600, 107, None)],
)
def test_the_group_of_kvm_comes_with_it_alone(
    mode: int, gid: int, expected: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Any = SimpleNamespace(stat=lambda: SimpleNamespace(st_mode=mode, st_gid=gid))
    monkeypatch.setattr(launch, "DEVICE", device)
    fast, slow = ["qemu", "-accel", "kvm", "-m", "1"], ["qemu", "-accel", "tcg", "-name", "kvm"]
    assert launch._groups(slow, 1879048192) == ()
    assert launch._groups(fast, None) == ()
    if expected is None:
        with pytest.raises(HostError, match="root alone"):
            launch._groups(fast, 1879048192)
    else:
        assert launch._groups(fast, 1879048192) == expected
