"""The whole pypxeboot against servers that mean harm: bounded, clear, and nothing left behind."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from oracles import dhcp_server, netns, pxe_site
from oracles.http_lies import ScriptedHttp, ok, redirect
from oracles.pxe_site import DASHES, KERNEL, MAC
from oracles.tftp_server import TftpServer

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed"),
]
CONFIG = b"default a\nlabel a\nkernel k\nappend initrd=i console=hvc0\n"
FILES = {f"pxelinux.cfg/01-{DASHES}": CONFIG, "k": KERNEL[:100_000], "i": b"i" * 5000}


@pytest.fixture(scope="module")
def lab() -> Iterator[netns.Lab]:
    with netns.lab() as made:
        yield made


def attempt(lab: netns.Lab, tmp: Path, *words: str, timeout: int = 6) -> pxe_site.Run:
    """Run as libxl does and check what must hold after every failure."""
    output, directory, options = pxe_site.libxl_place(tmp)
    run = pxe_site.pypxeboot(
        lab,
        [
            *options,
            f"--mac={MAC}",
            "--interface=xenbr0",
            f"--timeout={timeout}",
            *words,
            "/dev/null",
        ],
    )
    if run.status != 0:
        assert list(directory.iterdir()) == []
        assert output.read_bytes() == b""
        assert not any(line.startswith("Traceback") for line in run.err.splitlines())
        assert run.seconds < timeout + 4
        left = [line for line in processes() if "pypxeboot" in line and str(tmp) in line]
        assert left == []
    return run


def processes() -> list[str]:
    return [
        path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    ]


def tftp_in(lab: netns.Lab, files: Mapping[str, bytes] = FILES, **behaviour: Any) -> TftpServer:
    sock = netns.inside(lab.server, lambda: netns.udp_socket(lab.SERVER, 69))
    server = TftpServer(files, sock, **behaviour)
    server.give_sockets(
        netns.inside(lab.server, lambda: [netns.udp_socket(lab.SERVER, 0) for _ in range(30)])
    )
    return server


DIRECT = ("--dhcp=none", "--next-server=192.0.2.1", "--ip=192.0.2.150")


def test_the_lab_boots_when_nobody_lies(lab: netns.Lab, tmp_path: Path) -> None:
    with tftp_in(lab):
        assert attempt(lab, tmp_path, *DIRECT).status == 0


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("error", "error 2"),
        ("big blksize", "blocks of 65000"),
        ("unasked", "nobody asked"),
        ("wrong tsize", "announced 17 bytes"),
        ("huge tsize", "announces 999999999999 bytes"),
        ("oversize", "agreed were"),
        ("junk", "opcode"),
        ("silence", "not finished after 6 s"),
        ("drip", "not finished after 6 s|drips"),
    ],
)
def test_lying_tftp_server(lab: netns.Lab, tmp_path: Path, lie: str, message: str) -> None:
    files = {f"pxelinux.cfg/01-{DASHES}": CONFIG + b"#" * 100_000}
    options = () if lie == "drip" else ("blksize", "tsize", "windowsize")
    with tftp_in(lab, files, lies={lie}, options=options):
        run = attempt(lab, tmp_path, *DIRECT)
    assert run.status == 6
    assert re.search(message, run.err), run.err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"label a\nkernel ../../etc/shadow\n", "leaves the server's root"),
        (b"label a\nkernel http://192.0.2.77/k\n", "not one to boot from"),
        (b"label a\nkernel tftp://192.0.2.77/k\n", "not one to boot from"),
        (b"label a\nkernel file:///etc/shadow\n", "not a URL to boot from"),
        (b"label a\nkernel missing\n", "does not have this file"),
        (b"label a\nkernel i\n", "no Linux kernel"),
        (b"label a\nkernel k\nappend initrd=empty\n", "initrd is empty"),
        (b"label a\nkernel k\nappend initrd=missing\n", "does not have this file"),
        (b"include pxelinux.cfg/01-" + DASHES.encode() + b"\n", "includes without an end"),
        (b"default b\nlabel a\nkernel k\n", "'b' is not there"),
        (b"label a\nlocalboot 0\n", "pygrub"),
        (b"label a\nkernel k\nipappend 2\nappend " + b"x" * 8170 + b"\n", "longer than"),
        (b"\x7fELF" + bytes(1000), "unknown keyword"),
    ],
)
def test_hostile_config(lab: netns.Lab, tmp_path: Path, config: bytes, message: str) -> None:
    files = {**FILES, f"pxelinux.cfg/01-{DASHES}": config, "empty": b""}
    with tftp_in(lab, files):
        run = attempt(lab, tmp_path, *DIRECT)
    assert run.status != 0
    assert message in run.err


def test_gigantic_kernel(lab: netns.Lab, tmp_path: Path) -> None:
    server = tftp_in(lab, {**FILES, "k": KERNEL}, options=("blksize", "windowsize"))
    with server:
        run = attempt(lab, tmp_path, *DIRECT, "--kernel-limit=1")
    assert run.status == 6
    assert "larger than the limit of 1048576 bytes" in run.err


def test_pinned_digest_refuses_another_kernel(lab: netns.Lab, tmp_path: Path) -> None:
    with tftp_in(lab):
        run = attempt(lab, tmp_path, *DIRECT, f"--kernel-sha256={'0' * 64}")
    assert run.status == 7


def test_packed_directory_of_kernels_is_not_touched_by_a_failure(
    lab: netns.Lab, tmp_path: Path
) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    (place / "boot_kernel.other").write_bytes(b"another domain's")
    with tftp_in(lab, {}):
        words = [f"--output-directory={place}", f"--mac={MAC}", *DIRECT, "/dev/null"]
        assert pxe_site.pypxeboot(lab, words).status == 6
    assert [path.name for path in place.iterdir()] == ["boot_kernel.other"]


def test_no_server_at_all(lab: netns.Lab, tmp_path: Path) -> None:
    run = attempt(lab, tmp_path, timeout=3)
    assert run.status == 6
    assert "no DHCP server answered" in run.err


def test_sigterm_leaves_nothing_behind(lab: netns.Lab, tmp_path: Path) -> None:
    _, directory, options = pxe_site.libxl_place(tmp_path)
    argv = pxe_site.program(*options, f"--mac={MAC}", "--interface=xenbr0", "/dev/null")
    child = subprocess.Popen(lab.exec(lab.dom0, *argv), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while not list(directory.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 128 + signal.SIGTERM
    assert list(directory.iterdir()) == []
    assert not [line for line in processes() if str(directory) in line]


class RogueDhcp:
    """Answers DHCP requests on the server's wire with what ``answer`` returns."""

    def __init__(self, lab: netns.Lab, answer: dhcp_server.Server) -> None:
        self._answer = answer

        def make() -> socket.socket:
            sock = netns.udp_socket("", 67)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            return sock

        self._sock = netns.inside(lab.server, make)

    def __enter__(self) -> RogueDhcp:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def _serve(self) -> None:
        self._sock.settimeout(0.2)
        while self._sock.fileno() >= 0:
            try:
                raw, _ = self._sock.recvfrom(2000)
                for reply in self._answer(dhcp_server.read_request(raw)):
                    self._sock.sendto(reply, ("255.255.255.255", 68))
            except TimeoutError:
                continue
            except OSError:
                return


def noise(_: object) -> list[bytes]:
    dice = random.Random()
    return [dice.randbytes(dice.randrange(1400)) for _ in range(50)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (dhcp_server.honest(xid=1), "wrong xid"),
        (dhcp_server.honest(nak=True), "refusing|fell silent|not finished"),
        (dhcp_server.honest(siaddr="127.0.0.1"), "no boot server"),
        (dhcp_server.honest(options={67: b"evil\n\x1b[2J"}), "control characters"),
        (lambda r: [dhcp_server.honest()(r)[0][:-1] + b"\0" * 200], "without an end"),
        (lambda r: [dhcp_server.honest()(r)[0] + b"x" * 9000], "no boot|not finished|TFTP|answer"),
        (noise, "no DHCP server answered"),
    ],
    ids=["xid", "nak", "loopback", "control", "endless options", "oversize", "noise"],
)
def test_hostile_dhcp_server(
    lab: netns.Lab, tmp_path: Path, answer: dhcp_server.Server, message: str
) -> None:
    with RogueDhcp(lab, answer):
        run = attempt(lab, tmp_path, timeout=5)
    assert run.status == 6, run.err
    assert re.search(message, run.err), run.err


def test_rogue_second_dhcp_server(lab: netns.Lab, tmp_path: Path) -> None:
    root = pxe_site.fill(tmp_path / "tftp")
    rogue_file = tmp_path / "rogue"
    rogue_file.mkdir()
    place = tmp_path / "xl"
    place.mkdir()
    rival = lab.add_rival("192.0.2.66")
    words = [
        "dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--no-ping",
        f"--dhcp-leasefile={rogue_file / 'leases'}", "--user=root", "--pid-file=",
        "--dhcp-range=192.0.2.210,192.0.2.220,255.255.255.0", "--dhcp-boot=evil.0",
        "--log-facility=-",
    ]  # fmt: skip
    rogue = subprocess.Popen(lab.exec(rival, *words), stderr=subprocess.PIPE, text=True)
    try:
        assert rogue.stderr is not None and any("started" in line for line in rogue.stderr)
        with pxe_site.dnsmasq(lab, root):
            run = attempt(lab, place, timeout=20)
            assert run.status == 6
            assert "contradict each other" in run.err
            again = tmp_path / "xl2"
            again.mkdir()
            assert attempt(lab, again, "--dhcp-server=192.0.2.1", timeout=20).status == 0
    finally:
        rogue.terminate()
        rogue.wait(10)


def test_http_redirect_to_a_forbidden_host(lab: netns.Lab, tmp_path: Path) -> None:
    answers = {
        f"/pxelinux.cfg/01-{DASHES}": ok(CONFIG),
        "/k": redirect("http://192.0.2.2:8000/secret"),
    }
    missing = [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]
    sock = netns.inside(lab.server, lambda: netns.tcp_socket(lab.SERVER, 8099))
    with ScriptedHttp(lambda path: answers.get(path, missing), sock):
        words = ["--dhcp=none", "--http=http://192.0.2.1:8099/"]
        run = attempt(lab, tmp_path, *words)
    assert run.status == 6
    assert "the host 192.0.2.2 is not one to boot from" in run.err


def test_network_code_runs_without_privileges(lab: netns.Lab, tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    class Watching(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            if name == "k":
                for path in Path("/proc").glob("[0-9]*"):
                    try:
                        line = (path / "cmdline").read_bytes()
                        status = (path / "status").read_text()
                    except OSError:
                        continue
                    if b"imagekit.pypxeboot.program" in line and str(tmp_path).encode() in line:
                        seen[path.name] = status
            return super().__getitem__(name)

    with tftp_in(lab, Watching(FILES)):
        assert attempt(lab, tmp_path, *DIRECT, "--runas=64123").status == 0
    confined = [text for text in seen.values() if "Uid:\t64123\t64123\t64123" in text]
    assert len(confined) == 1
    assert "CapEff:\t0000000000000000" in confined[0]
    assert "CapPrm:\t0000000000000000" in confined[0]
    assert "NoNewPrivs:\t1" in confined[0]
    assert "Groups:\t \n" in confined[0]
