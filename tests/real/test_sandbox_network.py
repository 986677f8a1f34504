"""A sandbox's network reaches outward, and of the host's loopback what is let through."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from oracles.builds import ROOT
from oracles.ordinary_user import AsUser

from imagekit.host.sandbox.network import TUN, connected

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not TUN.exists(), reason="missing: /dev/net/tun"),
]

MARK = f"IMAGEKIT_RUN=network-test-{os.getpid()}"
"""In the environment of everything that imagekit starts."""
# Takes the job as JSON; tells of each place what came back, or the error. "device" sends by that
# interface, whatever the routes say (SO_BINDTODEVICE, socket(7)), which needs no capability.
INSIDE = """
import json, os, socket, sys
job = json.loads(sys.argv[1])
def tcp(address, port, device):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(1)
        try:
            if device:
                s.setsockopt(socket.SOL_SOCKET, 25, device.encode())
            s.connect((address, port))
            s.sendall(b"hello")
            s.shutdown(socket.SHUT_WR)
            return s.makefile("rb").read().decode()
        except OSError as error:
            return type(error).__name__
def udp(address, port, device, data=b"evil"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            if device:
                s.setsockopt(socket.SOL_SOCKET, 25, device.encode())
            s.sendto(data, (address, port))
        except OSError as error:
            return type(error).__name__
def abstract(name):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect("\\0" + name)
            return "connected"
        except OSError as error:
            return type(error).__name__
found = {"tcp": [tcp(*place) for place in job["tcp"]]}
found["abstract"] = abstract(job["abstract"])
for place in job["udp"]:
    udp(*place)
if "ask" in job:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(60)
        s.sendto(b"question", tuple(job["ask"]))
        found["answer"] = s.recv(16).decode()
udp(*job["last"], "", b"last")  # by the same way out, after the others
found["interfaces"] = sorted(name for _index, name in socket.if_nameindex())
print(json.dumps(found))
"""
AROUND = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from imagekit.host.sandbox.network import Forward, connected, let_through
forwards = [Forward(p, a, int(n)) for p, a, n in (f.split("/") for f in sys.argv[3].split())]
with let_through(forwards), connected() as made:
    assert made is not None
    fds = f"/proc/{os.getpid()}/fd"
    enter = ["nsenter", f"--net={fds}/{made.net}"]
    if made.user is not None:
        enter += [f"--user={fds}/{made.user}", "--preserve-credentials"]
    sys.exit(subprocess.call([*enter, "python3", "-c", *sys.argv[4:], sys.argv[2]]))
"""


@dataclass
class Host:
    """Services of this host; each says what it was sent, in capitals."""

    shown: int
    hidden: int
    outside: tuple[str, int]
    datagrams: socket.socket
    outside_datagrams: socket.socket
    abstract: str


def serve(listening: socket.socket) -> None:
    def loop() -> None:
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return
            with connection:
                connection.sendall(connection.makefile("rb").read().upper())

    threading.Thread(target=loop, daemon=True).start()


def own_address() -> str:
    """An address of this host that is not on the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("missing: an IPv4 network")
        return str(probe.getsockname()[0])


@pytest.fixture
def host() -> Iterator[Host]:
    streams = [socket.socket() for _ in range(3)]
    datagrams = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    name = f"imagekit-test-{os.getpid()}"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"\0{name}")
    unix.listen()
    outside = own_address()
    for stream, address in zip(streams, ("127.0.0.1", "127.0.0.1", outside), strict=True):
        stream.bind((address, 0))
        stream.listen()
        serve(stream)
    for one, address in zip(datagrams, ("127.0.0.1", outside), strict=True):
        one.bind((address, 0))
        one.settimeout(60)
    yield Host(
        streams[0].getsockname()[1],
        streams[1].getsockname()[1],
        streams[2].getsockname(),
        datagrams[0],
        datagrams[1],
        name,
    )
    for opened in (*streams, *datagrams, unix):
        opened.close()


@pytest.fixture(params=["root", "an ordinary user"])
def run_inside(request: pytest.FixtureRequest) -> Callable[[Host, dict[str, Any], str], Any]:
    """Runs INSIDE with a job in a network that lets forwards ("tcp/127.0.0.1/80 ...") through."""
    user: AsUser | None = None
    if request.param != "root":
        user = request.getfixturevalue("as_builder")

    def run(host: Host, job: dict[str, Any], forwards: str) -> Any:
        job = {"abstract": host.abstract, "udp": [], **job}
        job["last"] = host.outside_datagrams.getsockname()
        argv = [
            "env",
            MARK,
            sys.executable,
            "-c",
            AROUND,
            str(ROOT),
            json.dumps(job),
            forwards,
            INSIDE,
        ]
        if user is None:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        else:
            done = user(*argv)
        assert done.returncode == 0, done.stderr
        assert host.outside_datagrams.recv(16) == b"last"
        return json.loads(done.stdout)

    return run


def test_a_sandbox_reaches_outward_and_no_loopback(
    host: Host, run_inside: Callable[[Host, dict[str, Any], str], Any]
) -> None:
    inside = ("240.0.2.2", "240.0.2.3", "240.0.2.100")
    loopback = ("127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::ffff:127.0.0.1")  # noqa: S104
    ways = [[a, host.hidden, d] for a in (*loopback, *inside) for d in ("", "tap0", "lo")]
    port = host.datagrams.getsockname()[1]
    datagrams = [[a, port, d] for a in ("127.0.0.1", *inside) for d in ("", "tap0")]
    job = {"tcp": [[*host.outside, ""], *ways], "udp": datagrams}
    found = run_inside(host, job, "")
    assert found["interfaces"] == ["lo", "tap0"]
    assert found["tcp"][0] == "HELLO"
    for way, result in zip(ways, found["tcp"][1:], strict=True):
        assert result in ("ConnectionRefusedError", "TimeoutError", "OSError"), (way, result)
    assert found["abstract"] == "ConnectionRefusedError"
    host.datagrams.settimeout(0)
    with pytest.raises(BlockingIOError):
        host.datagrams.recv(16)


def test_what_is_let_through_is_one_port(
    host: Host, run_inside: Callable[[Host, dict[str, Any], str], Any]
) -> None:
    places = [["127.0.0.1", host.shown, ""], ["127.0.0.1", host.hidden, ""]]
    places += [["127.0.0.2", host.shown, ""], ["240.0.2.2", host.shown, ""]]
    found = run_inside(host, {"tcp": places}, f"tcp/127.0.0.1/{host.shown}")
    assert found["tcp"][0] == "HELLO"
    assert "HELLO" not in found["tcp"][1:]


def test_datagrams_are_let_through_too(
    host: Host, run_inside: Callable[[Host, dict[str, Any], str], Any]
) -> None:
    def answer() -> None:
        data, client = host.datagrams.recvfrom(16)
        host.datagrams.sendto(data.upper(), client)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    port = host.datagrams.getsockname()[1]
    found = run_inside(host, {"tcp": [], "ask": ["127.0.0.1", port]}, f"udp/127.0.0.1/{port}")
    assert found["answer"] == "QUESTION"
    thread.join()


def test_nothing_is_left_when_the_block_ends(
    host: Host, run_inside: Callable[[Host, dict[str, Any], str], Any]
) -> None:
    def programs() -> list[bytes]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if MARK.encode() in path.read_bytes().split(b"\0"):
                    found.append((path.parent / "cmdline").read_bytes())
        return found

    run_inside(host, {"tcp": []}, f"tcp/127.0.0.1/{host.shown}")
    assert programs() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, who alone names networks")
def test_the_networks_that_the_host_has_named_stay() -> None:
    name = f"ik{os.getpid()}"
    inside = ["ip", "netns", "exec", name, "true"]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with connected() as found:
            assert found is not None
            assert subprocess.run(inside, check=False).returncode == 0
        assert subprocess.run(inside, check=False).returncode == 0
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)
