"""HTTP fetching from a server that follows a script, mostly a bad one."""

from __future__ import annotations

import itertools
import ssl
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest
from oracles.http_lies import ScriptedHttp, ok, redirect

from imagekit.errors import DownloadError, HostError
from imagekit.pypxeboot import http_fetch
from imagekit.pypxeboot.transfer import Deadline, NotFoundError, Receiver


def fetch(
    url: str,
    *,
    limit: int = 1 << 20,
    seconds: float = 3,
    hosts: Sequence[str] = ("127.0.0.1",),
    tls: ssl.SSLContext | None = None,
) -> bytes:
    deadline = Deadline(seconds)
    receiver = Receiver(url, limit, deadline)
    http_fetch.fetch(url, receiver, deadline, allowed=lambda host: host in hosts, tls=tls)
    return receiver.content()


def test_body_arrives_whole_with_and_without_a_length() -> None:
    chunked = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"]
    plain = [b"HTTP/1.0 200 OK\r\n\r\nuntil the end"]
    answers = {"/a": ok(b"x" * 100_000), "/b": chunked, "/c": plain}
    with ScriptedHttp(answers.__getitem__) as server:
        assert fetch(server.url("/a")) == b"x" * 100_000
        assert fetch(server.url("/b")) == b"abc"
        assert fetch(server.url("/c")) == b"until the end"


@pytest.mark.parametrize("status", [404, 410])
def test_missing_file_is_told_apart(status: int) -> None:
    script = [f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()]
    with ScriptedHttp(lambda _: script) as server, pytest.raises(NotFoundError):
        fetch(server.url())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([b"HTTP/1.1 500 No\r\n\r\n"], "says 500"),
        ([b"garbage\r\n\r\n"], "broke the protocol"),
        ([b""], "broke the protocol"),
        ([b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000], "broke the protocol"),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"], "broke the protocol"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"], "10 bytes were announced|protocol"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"], "announces 99999999"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], "protocol|broke"),
        ([b"HTTP/1.1 302 R\r\nContent-Length: 0\r\n\r\n"], "redirect without"),
    ],
)
def test_broken_answers_are_clear_errors(script: list[bytes], message: str) -> None:
    with ScriptedHttp(lambda _: script) as server, pytest.raises(DownloadError, match=message):
        fetch(server.url())


def test_endless_body_stops_at_the_limit() -> None:
    head = b"HTTP/1.0 200 OK\r\n\r\n"
    server = ScriptedHttp(lambda _: itertools.chain([head], itertools.repeat(b"x" * 9999)))
    with server, pytest.raises(DownloadError, match="limit"):
        fetch(server.url())


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n"],
    ids=["status", "head", "body"],
)
def test_slow_drip_ends_at_the_deadline(head: bytes) -> None:
    drip: Iterable[bytes | float] = itertools.chain([head], itertools.cycle([b"H", 0.05]))
    started = time.monotonic()
    with ScriptedHttp(lambda _: drip) as server, pytest.raises(DownloadError):
        fetch(server.url(), seconds=0.25)
    assert time.monotonic() - started < 30


def test_line_cut_by_the_deadline_is_never_a_short_file() -> None:
    script: list[bytes | float] = [b"HTTP/1.0 200 OK\r\n\r\n", b"half", 5.0, b"other half"]
    with (
        ScriptedHttp(lambda _: script) as server,
        pytest.raises(DownloadError, match="not finished"),
    ):
        fetch(server.url(), seconds=0.25)


def test_endless_interim_answers_end_at_the_deadline() -> None:
    interim = itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")
    with ScriptedHttp(lambda _: interim) as server, pytest.raises(DownloadError):
        fetch(server.url(), seconds=0.25)


def test_redirect_to_an_allowed_host_is_followed() -> None:
    with ScriptedHttp(lambda _: ok(b"there")) as target:
        with ScriptedHttp(lambda _: redirect(target.url("/x"))) as server:
            assert fetch(server.url()) == b"there"
        assert target.paths == ["/x"]


def test_redirect_to_a_forbidden_host_is_not() -> None:
    with ScriptedHttp(lambda _: ok(b"secret")) as target:
        elsewhere = target.url("/x", host="localhost")
        server = ScriptedHttp(lambda _: redirect(elsewhere))
        with server, pytest.raises(DownloadError, match="localhost is not one to boot from"):
            fetch(server.url())
        assert target.paths == []


def _redirected(target: str, _path: str) -> list[bytes]:
    return redirect(target)


def test_redirect_loop_and_strange_schemes_end() -> None:
    server = ScriptedHttp(lambda path: redirect(path + "x"))
    with server, pytest.raises(DownloadError, match="redirects"):
        fetch(server.url())
    for target in ("file:///etc/passwd", "http://u:p@127.0.0.1/", "http://127.0.0.1:bad/"):
        server = ScriptedHttp(partial(_redirected, target))
        with server, pytest.raises(DownloadError):
            fetch(server.url())


def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedHttp(lambda _: ok(b"direct")) as server:
        assert fetch(server.url()) == b"direct"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", path, "-out", f"{path}.crt", "-days", "3650", "-subj", "/CN=b",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_https_is_verified_against_the_given_authority(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedHttp(lambda _: ok(b"safe"), tls=context) as server:
        trusted = http_fetch.tls_context(Path(f"{certificate}.crt"))
        assert fetch(server.url(), tls=trusted) == b"safe"
        with pytest.raises(DownloadError, match=r"(?i)certificate"):
            fetch(server.url())
        with pytest.raises(DownloadError):
            fetch(server.url(host="localhost"), hosts=("localhost",), tls=trusted)


def test_https_never_leads_back_to_http(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusted = http_fetch.tls_context(Path(f"{certificate}.crt"))
    server = ScriptedHttp(lambda _: redirect("http://127.0.0.1/x"), tls=context)
    with server, pytest.raises(DownloadError, match="away from HTTPS"):
        fetch(server.url(), tls=trusted)


def test_missing_authority_file_is_an_error_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        http_fetch.tls_context(tmp_path / "none")
