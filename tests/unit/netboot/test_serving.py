"""The HTTP server for answers, and the configs for other servers."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracles import dnsmasq_reader

from imagekit.errors import SpecError
from imagekit.netboot import publish, serve_config, tree
from imagekit.netboot.answer_server import AnswerServer
from imagekit.netboot.netguest import NetbootGuest

MAC = "00:16:3e:10:20:30"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kernel = tmp_path / "linux"
    kernel.write_bytes(bytes(0x202) + b"HdrS" + bytes(5000))
    site = publish.Site(tmp_path / "root", http="http://192.0.2.1:8080")
    guests = [
        NetbootGuest("web1", MAC, kernel, None, "url={answers}", "192.0.2.30", "secret text\n"),
        NetbootGuest("web2", "00:16:3e:10:20:31", kernel, answers="plain\n", secret=False),
    ]
    publish.publish(site, guests)
    return site.root


class Server(AnswerServer):
    """One that keeps what it logs in ``lines``."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        super().__init__(root, ("127.0.0.1", 0), self.lines.append)


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    made = Server(root)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def get(server: Server, path: str, method: str = "GET") -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    line.request(method, path)
    answer = line.getresponse()
    body = answer.read()
    line.close()
    return answer.status, body


def record(root: Path, name: str = "web1") -> tree.GuestRecord:
    return tree.load(root).guests[name]


def test_secret_answers_are_served_once(server: Server, root: Path) -> None:
    path = "/" + record(root).answers
    assert get(server, path, "HEAD") == (200, b"")
    assert get(server, path) == (200, b"secret text\n")
    assert get(server, path)[0] == 410
    assert get(server, path)[0] == 410


def test_two_clients_at_once_do_not_both_get_them(server: Server, root: Path) -> None:
    path = "/" + record(root).answers
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(get(server, path)[0])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [200] + [410] * 7


def test_answers_without_secrets_are_served_again_and_again(server: Server, root: Path) -> None:
    path = "/" + record(root, "web2").answers
    assert [get(server, path) for _ in range(3)] == [(200, b"plain\n")] * 3


def test_done_flips_to_the_own_disk_and_closes_the_answers(server: Server, root: Path) -> None:
    found = record(root)
    assert get(server, f"/done/{found.done_token}", "HEAD")[0] == 200
    assert record(root).mode == "install"
    assert get(server, f"/done/{found.done_token}")[0] == 200
    assert record(root).mode == "local"
    assert "localboot" in (root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-30").read_text()
    assert get(server, f"/done/{found.done_token}")[0] == 200
    assert get(server, "/" + found.answers)[0] == 403


def test_kernels_and_scripts_are_served(server: Server, root: Path) -> None:
    kernel = record(root).kernel
    assert get(server, "/" + kernel)[1] == (root / "tftp" / kernel).read_bytes()
    assert get(server, "/boot.ipxe")[1].startswith(b"#!ipxe")


def test_nothing_else_is_served(server: Server) -> None:
    paths = [
        "/", "/state.json", "/../state.json", "/tftp/boot.ipxe", "/answers/", "/answers/web1",
        "/done/", "/done/x", "/%2e%2e/state.json", "//etc/passwd", "/" + "a" * 5000, "/used/x",
        "/images/../../state.json", "/answers/../state.json",
    ]  # fmt: skip
    assert {path: get(server, path)[0] for path in paths} == dict.fromkeys(paths, 404)


def test_files_that_are_not_ours_are_not_served(server: Server, root: Path) -> None:
    (root / "tftp/private").write_text("x")
    assert get(server, "/private")[0] == 404


def test_tokens_do_not_reach_the_log(server: Server, root: Path) -> None:
    found = record(root)
    get(server, "/" + found.answers)
    get(server, f"/done/{found.done_token}")
    told = "\n".join(server.lines)
    assert "GET /answers/..." in told
    assert found.token not in told
    assert found.done_token not in told


def test_silent_and_numerous_clients_are_bounded(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagekit.netboot.answer_server._Handler.timeout", 0.4)
    monkeypatch.setattr("imagekit.netboot.answer_server.MAX_CONNECTIONS", 4)
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(12)]
    for sock in idle:
        sock.settimeout(5)
        assert sock.recv(10) == b""
        sock.close()
    assert any("dropped" in line for line in server.lines)
    assert get(server, "/boot.ipxe")[0] == 200


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def connect(server: Server, source: str = "127.0.0.1") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.server_port), 10, (source, 0))
    made.settimeout(10)
    return made


def ended(line: socket.socket) -> bool:
    """Whether the server has closed the connection (what it sent before is read away)."""
    try:
        while line.recv(1 << 16):
            continue
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("start", [b"", b"GET /boot.ipxe HTTP/1.0\r\n"])
def test_clients_that_drip_are_cut_off_though_they_are_never_silent(
    server: Server, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr("imagekit.netboot.answer_server.REQUEST_SECONDS", 0.5)
    clients = [connect(server) for _ in range(6)]
    for client in clients:
        client.sendall(start)

    def drip() -> bool:
        try:
            for client in clients:
                client.sendall(b"X-A: b\r\n" if start else b"G")
        except OSError:
            return True
        return False

    wait_for(drip)
    assert all(map(ended, clients))
    wait_for(lambda: not server._open)
    assert any("took too long" in line for line in server.lines)
    assert get(server, "/boot.ipxe")[0] == 200


def test_a_client_that_takes_its_file_in_drops_is_cut_off(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = record(root).kernel
    (root / "tftp" / kernel).write_bytes(bytes(32 << 20))
    monkeypatch.setattr("imagekit.netboot.answer_server.REQUEST_SECONDS", 0.5)
    monkeypatch.setattr("imagekit.netboot.answer_server.SLOWEST_BYTES_PER_SECOND", 64 << 20)
    with connect(server) as client:
        client.sendall(f"GET /{kernel} HTTP/1.0\r\n\r\n".encode())
        client.recv(100)
        wait_for(lambda: not server._open)
    assert len(get(server, "/" + kernel)[1]) == 32 << 20


def test_one_address_cannot_shut_the_others_out(server: Server) -> None:
    greedy = [connect(server, "127.0.0.9") for _ in range(80)]
    wait_for(lambda: sum("127.0.0.9: dropped" in line for line in server.lines) >= 72)
    assert len(server._open) == 8
    assert get(server, "/boot.ipxe")[0] == 200
    for client in greedy:
        client.close()
    wait_for(lambda: not server._open)
    with connect(server, "127.0.0.9") as again:
        again.sendall(b"GET /boot.ipxe HTTP/1.0\r\n\r\n")
        assert again.recv(12) == b"HTTP/1.0 200"


RAW_REQUESTS = [
    b"GET /done/%s HTTP/1.0\r\n\r\n",
    b"GET done/%s HTTP/1.0\r\n\r\n",
    b"GET //answers/%s/preseed.cfg HTTP/1.0\r\n\r\n",
    b"GET /boot.ipxe?%s HTTP/1.0\r\n\r\n",
    b"GET /%s/boot.ipxe HTTP/1.0\r\n\r\n",
    b"GET /%%64one/%s HTTP/1.0\r\n\r\n",
    b"GET /done/%s HTTP/9.9\r\n\r\n",
    b"GET /done/%s /x HTTP/1.0\r\n\r\n",
    b"%s /done HTTP/1.0\r\n\r\n",
    b"GET http://192.0.2.1/done/%s HTTP/1.0\r\n\r\n",
    b"%s\r\n\r\n",
]


@pytest.mark.parametrize("request_line", RAW_REQUESTS)
def test_no_form_of_a_request_brings_a_token_into_the_log(
    server: Server, root: Path, request_line: bytes
) -> None:
    found = record(root)
    for token in (found.token, found.done_token):
        encoded = "".join(f"%{ord(c):02x}" if i % 3 else c for i, c in enumerate(token))
        for written in (token, encoded):
            with connect(server) as client:
                client.sendall(request_line % written.encode())
                assert ended(client)
    told = "\n".join(server.lines)
    assert server.lines
    assert not any(token[:16] in told for token in (found.token, found.done_token))


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\x1b]0;owned\x07 HTTP/1.0",
        b"GET /\x9b2J HTTP/1.0",
        b"GET /%1b[31m%0aroot: forged HTTP/1.0",
        b"\x1b[2J\x1b[H",
        b"G\x08\x7fET / HTTP/\x1b",
        b"GET /%e2%80%ae%c2%85x HTTP/1.0",
        b"GET /a\x0bb\x0cc\xa0\x85d HTTP/1.0",
    ],
)
def test_the_log_has_printable_characters_only(server: Server, line: bytes) -> None:
    with connect(server) as client:
        client.sendall(line + b"\r\n\r\n")
        ended(client)
    wait_for(lambda: bool(server.lines))
    assert all(text.isprintable() for text in server.lines)
    assert all(text.startswith("127.0.0.1: ") for text in server.lines)


def test_what_is_public_stays_readable_in_the_log(server: Server, root: Path) -> None:
    kernel = record(root).kernel
    get(server, "/" + kernel)
    assert any(f"GET /{kernel} HTTP/1" in line for line in server.lines)


def service(root: Path, **more: Any) -> serve_config.Service:
    values = {"address": "192.0.2.1", "network": "192.0.2.1/24", **more}
    return serve_config.Service(root, "eth0", **values)


FULL = {"dhcp": "full", "first": "192.0.2.100", "last": "192.0.2.200", "router": "192.0.2.254"}


@pytest.mark.parametrize(
    "name",
    [
        "a #b",
        "a\t#b",
        "a\vb",
        "a\fb",
        "a\x1fb",
        "a,b",
        'a"b',
        " #",
        "a  ##",
        "a\x7fb",
        "a\rb",
        "a\udcffb",
    ],
)
def test_a_directory_that_dnsmasq_would_read_as_another_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match="cannot stand in a config") as caught:
        service(tmp_path / name)
    assert str(caught.value.where).isprintable()
    with pytest.raises(SpecError, match="cannot stand in a config"):
        serve_config.dnsmasq_config(service(tmp_path), tmp_path / name)


@pytest.mark.parametrize("name", ["a#b", "#", "a b", "a \\b", "a'b", "ä 😀", "a=b", "a;b", "$a"])
def test_other_directories_reach_dnsmasq_as_they_are(tmp_path: Path, name: str) -> None:
    text = serve_config.dnsmasq_config(service(tmp_path / name), tmp_path / name / "hosts")
    assert dnsmasq_reader.tftp_roots(text.encode()) == [f"{tmp_path / name}/tftp"]
    assert ("dhcp-hostsfile", f"{tmp_path / name}/hosts") in dnsmasq_reader.read(text.encode())


@pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed")
@pytest.mark.parametrize("more", [{}, FULL, {"dhcp": "none"}])
def test_dnsmasq_takes_its_config(root: Path, tmp_path: Path, more: dict[str, str]) -> None:
    config, hosts = tmp_path / "c", tmp_path / "h"
    hosts.write_text(serve_config.dnsmasq_hosts(tree.load(root)))
    config.write_text(serve_config.dnsmasq_config(service(root, **more), hosts))
    words = ["dnsmasq", "--test", f"--conf-file={config}"]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hosts.read_text().splitlines()[0] == f"{MAC},192.0.2.30,web1"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")
def test_systemd_takes_the_unit(root: Path, tmp_path: Path) -> None:
    unit = tmp_path / "imagekit-netboot.service"
    words = ["netboot", "serve", "--root=/srv/a b%c", "--interface=eth0"]
    unit.write_text(serve_config.systemd_unit(Path("/bin/true"), words, service(root)))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, check=False, text=True
    )
    mine = [line for line in done.stderr.splitlines() if "imagekit-netboot" in line]
    assert mine == []


def test_dhcpd_config_names_every_guest(root: Path) -> None:
    text = serve_config.dhcpd_config(service(root), tree.load(root))
    assert f"host web1 {{ hardware ethernet {MAC}; fixed-address 192.0.2.30; }}" in text
    assert "host web2 { hardware ethernet 00:16:3e:10:20:31; }" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    "more",
    [
        {"dhcp": "full"}, {**FULL, "first": "10.0.0.1"}, {"router": "x"}, {"network": "x"},
        {"http_port": 99999}, {"address": "127.0.0.1"},
    ],
)  # fmt: skip
def test_services_that_cannot_be_are_refused(
    root: Path, more: dict[str, int] | dict[str, str]
) -> None:
    with pytest.raises(SpecError):
        service(root, **more)
    with pytest.raises(SpecError):
        serve_config.Service(root, "eth0\nport=53", "192.0.2.1", "192.0.2.0/24")
