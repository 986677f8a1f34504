"""Checksums, signatures and downloads: nothing that fails them is used."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekit.disk.extents import copy_sparse
from imagekit.errors import DownloadError, VerificationError
from imagekit.host.download import download, shown
from imagekit.installs.context import BuildContext
from imagekit.installs.stages import isosource
from imagekit.installs.stages.isosource import IsoSource, check_digest, digest_of
from imagekit.pipeline.events import Events
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.workspace import workspace
from imagekit.spec.install import Iso
from imagekit.spec.load import load_spec

DATA = bytes(range(256)) * 4000
DIGEST = "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        f"{DIGEST}  debian.iso\n",
        f"{DIGEST} *debian.iso\n",
        f"# debian.iso: 5 bytes\nSHA256 (debian.iso) = {DIGEST}\n",
        f"{'b' * 64}  other.iso\n{DIGEST}  ./debian.iso\n",
    ],
)
def test_the_digest_is_found_in_every_usual_form(text: str) -> None:
    assert digest_of(text, "debian.iso", "SHA256SUMS") == DIGEST


@pytest.mark.parametrize(
    "text", ["", f"{DIGEST}  xdebian.iso\n", f"{'a' * 63}  debian.iso\n", "debian.iso\n"]
)
def test_a_checksum_file_without_the_iso_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        digest_of(text, "debian.iso", "SHA256SUMS")


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.iso").write_bytes(DATA)
    check_digest(tmp_path / "x.iso", hashlib.sha256(DATA).hexdigest().upper(), "spec")
    with pytest.raises(VerificationError):
        check_digest(tmp_path / "x.iso", DIGEST, "spec")


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA; the first answers break off after ``cut`` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.tag = '"one"'
        self.ranges: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == self.server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if self.path != "/x.iso":
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Length", str(len(DATA) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        body = DATA[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server, name: str = "x.iso") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    seen: list[tuple[int, int]] = []
    download(
        url(server), tmp_path / "x", progress=lambda done, all_: seen.append((done, all_)), pause=0
    )
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "x.part").write_bytes(b"old" * 1000)
    (tmp_path / "x.part.json").write_text(f'{{"url": "{url(server)}", "validator": "\\"old\\""}}')
    download(url(server), tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == DATA


def test_what_is_not_there_or_too_large_leaves_no_target(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        download(url(server, "no.iso"), tmp_path / "x", pause=0)
    with pytest.raises(DownloadError):
        download(url(server), tmp_path / "x", max_bytes=1000, pause=0)
    with pytest.raises(DownloadError):
        download("file:///etc/passwd", tmp_path / "x", pause=0)
    assert not (tmp_path / "x").exists()


def test_a_password_in_a_url_is_not_shown() -> None:
    assert "secret" not in shown("https://user:secret@host/x.iso")


@pytest.mark.parametrize("swap", ["before the copy", "after the copy"])
def test_an_iso_that_is_swapped_meanwhile_is_the_pinned_one_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    iso = tmp_path / "x.iso"
    iso.write_bytes(DATA)
    spec = tmp_path / "spec.yaml"
    digest = hashlib.sha256(DATA).hexdigest()
    spec.write_text(
        "name: g\nos: {suite: bookworm}\n"
        f"install: {{method: iso, iso: x.iso, sha256: {digest}}}\n"
    )
    file = load_spec(spec)
    assert isinstance(file.spec.install, Iso)
    stage = IsoSource(BuildContext(file, tmp_path / "out"), file.spec.install)
    real_copy, real_check = copy_sparse, check_digest

    def copied(source: Path, target: Path) -> None:
        if swap == "before the copy":
            iso.write_bytes(b"evil")
        real_copy(source, target)

    def checked(path: Path, sha256: str, where: str) -> None:
        real_check(path, sha256, where)
        iso.write_bytes(b"evil")

    monkeypatch.setattr(isosource, "copy_sparse", copied)
    monkeypatch.setattr(isosource, "check_digest", checked)
    output = tmp_path / "output"
    output.mkdir()
    with workspace(Events()) as space:
        run = StageRun(space, {}, output, tmp_path)
        if swap == "before the copy":
            with pytest.raises(VerificationError):
                stage.run(run)
            return
        stage.run(run)
    assert (output / "source.iso").read_bytes() == DATA
