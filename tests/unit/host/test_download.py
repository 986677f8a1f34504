"""Downloads follow redirects that keep what vouches for them, and no others."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from oracles.http_lies import ScriptedHttp, ok, redirect

from imagekit.errors import DownloadError
from imagekit.host.apt_sources import suite_is_gone
from imagekit.host.download import download


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side; its certificate is among the authorities of this process."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-keyout", str(key)]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("hops", [1, 3])
def test_https_never_leads_to_http(hops: int, tls: ssl.SSLContext, tmp_path: Path) -> None:
    with ScriptedHttp(lambda _: ok(b"of whoever is on the way")) as plain:

        def answer(path: str) -> list[bytes]:
            left = int(path[1:])
            return redirect(f"/{left - 1}" if left > 1 else plain.url("/x"))

        with ScriptedHttp(answer, tls=tls) as secure:
            url = secure.url(f"/{hops}")
            with pytest.raises(DownloadError, match="from HTTPS to HTTP") as caught:
                download(url, tmp_path / "x", pause=0)
            assert caught.value.where == url
            assert len(secure.paths) == hops
        assert plain.paths == []
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.part").exists()


def test_http_leads_to_https_and_https_to_https(tls: ssl.SSLContext, tmp_path: Path) -> None:
    answers = {"/a": redirect("/b"), "/b": ok(b"whole")}
    with ScriptedHttp(answers.__getitem__, tls=tls) as secure:
        with ScriptedHttp(lambda _: redirect(secure.url("/a"))) as plain:
            download(plain.url(), tmp_path / "x", pause=0)
        assert (tmp_path / "x").read_bytes() == b"whole"
        download(secure.url("/a"), tmp_path / "y", pause=0)
        assert (tmp_path / "y").read_bytes() == b"whole"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"])
def test_nothing_leads_out_of_http(target: str, tmp_path: Path) -> None:
    with (
        ScriptedHttp(lambda _: redirect(target)) as server,
        pytest.raises(DownloadError, match=r"neither http nor https|the server says 302"),
    ):
        download(server.url(), tmp_path / "x", pause=0)
    assert not (tmp_path / "x").exists()


def test_a_mirror_that_leads_away_from_https_says_nothing_of_its_suites(
    tls: ssl.SSLContext,
) -> None:
    gone = [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]
    with ScriptedHttp(lambda _: gone) as plain:
        assert suite_is_gone(plain.url("/debian"), "x")
        with ScriptedHttp(lambda _: redirect(plain.url("/debian")), tls=tls) as secure:
            assert not suite_is_gone(secure.url("/debian"), "x")
        with ScriptedHttp(lambda _: gone, tls=tls) as secure:
            assert suite_is_gone(secure.url("/debian"), "x")
