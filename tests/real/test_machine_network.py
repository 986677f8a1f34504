"""What a guest in an installer's machine reaches: what is named, and of the host nothing else."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from oracles import curious_guest
from support.namespaces import need_a_network_of_ones_own

from imagekit.disk import raw
from imagekit.host import confined
from imagekit.host.kvm import kvm_works
from imagekit.installs.machine import Hardware, machine
from imagekit.vm.card import NetworkBoot
from imagekit.vm.gate import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.slow]


class Witness:
    """A service on ``address`` that says hello, and counts who came; TCP and UDP."""

    def __init__(self, stack: contextlib.ExitStack, address: str, port: int = 0) -> None:
        self.came: list[str] = []
        self._tcp = socket.create_server((address, port))
        self.port = int(self._tcp.getsockname()[1])
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, self.port))
        for serve in (self._connections, self._datagrams):
            threading.Thread(target=serve, daemon=True).start()
        stack.callback(self._end)

    def _connections(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, peer = self._tcp.accept()
                self.came.append(f"tcp {peer}")
                with one:
                    one.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello\n")
                    one.shutdown(socket.SHUT_WR)
                    one.settimeout(5)
                    with contextlib.suppress(OSError):
                        one.recv(4096)

    def _datagrams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self._udp.recvfrom(512)
                if not data:  # it was shut down
                    return
                self.came.append(f"udp {peer}")

    def _end(self) -> None:
        for one in (self._tcp, self._udp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def own_address() -> str:
    """An address of this host that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.200", 9))
        except OSError:
            pytest.skip("missing: an address of this host besides loopback's")
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def served(directory: Path) -> Iterator[int]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def get(host: str, port: int) -> str:
    """A command that succeeds when HTTP is spoken there."""
    ask = "printf 'GET /linux HTTP/1.0\\r\\n\\r\\n'"
    return f'sh -c "{ask} | nc -w 10 {host} {port} | grep -q HTTP"'


def test_the_guest_reaches_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    need_a_network_of_ones_own()
    if curious_guest.kernel() is None:
        pytest.skip("missing: a kernel with its modules, or busybox-static")
    host = own_address()
    for name in ("web", "scratch", "logs"):
        (tmp_path / name).mkdir()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(tmp_path / "web"))
        loopback = Witness(stack, "127.0.0.1")
        other, mirror = Witness(stack, host), Witness(stack, host)
        trials = {
            "answers": get("10.0.2.2", port),
            "mirror": get(host, mirror.port),
            "loopback": get("10.0.2.2", loopback.port),
            "loopback-udp": f"nslookup example.org 10.0.2.2:{loopback.port}",
            "host": get(host, other.port),
            "host-udp": f"nslookup example.org {host}:{other.port}",
            "mirrors-port-of-loopback": get("10.0.2.2", mirror.port),
            "answers-port-of-host": get(host, port),
            "name": "nslookup example.org",
            "name-by-other-server": f"nslookup example.org {host}",
            "ping": f"ping -c 1 -W 3 {host}",
        }
        curious_guest.make(tmp_path / "web", f"http://10.0.2.2:{port}", trials)
        raw.create(tmp_path / "disk", 1 << 20)
        hardware = Hardware(
            NetworkBoot(tmp_path / "web/tftp", "boot.ipxe"),
            tmp_path / "disk",
            256,
            kvm_works().works,
            reach=(Endpoint("10.0.2.2", port), Endpoint(host, mirror.port)),
        )
        said: list[str] = []
        with machine(
            hardware,
            scratch=tmp_path / "scratch",
            logs=tmp_path / "logs",
            listener=lambda _name, line: said.append(line),
        ) as running:
            identity = Path(f"/proc/{running.running.process.pid}/status").read_text()
            while running.step(1.0):
                pass
    text = "\n".join(said)
    assert "TRIED-ALL" in text, text[-3000:]
    found = dict(re.findall(r"TRIED (\S+) (\w+)", text))
    assert found.pop("answers") == "reached" and found.pop("mirror") == "reached", text
    assert set(found) == set(trials) - {"answers", "mirror"}
    assert set(found.values()) == {"not"}, found
    assert loopback.came == [] and other.came == []
    assert {who.split("(")[0] for who in mirror.came} == {"tcp "}
    assert "example.org: refused" in (tmp_path / "logs/refused.log").read_text()
    assert "NoNewPrivs:\t1" in identity and "CapEff:\t0000000000000000" in identity
    if os.geteuid() == 0:
        (uid,) = set(identity.split("Uid:")[1].split("\n")[0].split())
        assert int(uid) >= confined.FIRST_UID and f"Gid:\t{uid}\t" in identity
