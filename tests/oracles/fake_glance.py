"""A small Glance (API v2) on loopback that keeps what is created and uploaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
"""What glance-api.conf has unless somebody adds to it."""


class FakeGlance:
    """``images`` by id; ``uploads`` are (SHA-256, bytes) by id.

    ``refuse_upload`` names a disk format whose data is refused, ``status`` answers every GET.
    ``stall`` leaves the first byte of data unread until ``released`` is set; ``uploading`` is set
    then. ``vanish`` is a Glance that is killed in the middle of an upload: it answers nothing more
    until ``gone`` is cleared. ``keep`` refuses to delete. ``answers`` are a status and a message by
    HTTP method, for every request of it.
    """

    def __init__(
        self,
        refuse_upload: str = "",
        status: int = 0,
        stall: bool = False,
        vanish: bool = False,
        keep: bool = False,
        container_formats: tuple[str, ...] = CONTAINER_FORMATS,
        answers: dict[str, tuple[int, str]] | None = None,
    ) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, tuple[str, int]] = {}
        self.refuse_upload = refuse_upload
        self.status = status
        self.stall = stall
        self.vanish = vanish
        self.keep = keep
        self.container_formats = container_formats
        self.answers = answers or {}
        self.gone = False
        self.uploading = threading.Event()
        self.released = threading.Event()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeGlance

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        if self.fake.gone:
            self.close_connection = True
            self.connection.close()
            return
        with contextlib.suppress(ConnectionError, ValueError):
            super().handle_one_request()

    def _answered(self) -> bool:
        if self.command not in self.fake.answers:
            return False
        if self.command in ("POST", "PUT"):
            self._body()
        status, message = self.fake.answers[self.command]
        self._send(status, {"message": message})
        return True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if self.fake.status:
            self._send(self.fake.status, {"message": "not today"})
        elif parts.path.rstrip("/") in ("", "/v2") and not parts.query:
            link = [{"rel": "self", "href": f"{self.fake.url}/v2/"}]
            self._send(200, {"versions": [{"id": "v2.9", "status": "CURRENT", "links": link}]})
        elif parts.path == "/v2/images":
            name = parse_qs(parts.query).get("name", [None])[0]
            found = [i for i in self.fake.images.values() if name in (None, i["name"])]
            self._send(200, {"images": found, "schema": "", "first": ""})
        else:
            image = self.fake.images.get(parts.path.removeprefix("/v2/images/"))
            self._send(404 if image is None else 200, image or {})

    def do_POST(self) -> None:
        if self._answered():
            return
        record = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if (kind := record["container_format"]) not in self.fake.container_formats:
            known = list(self.fake.container_formats)
            self._send(400, {"message": f"'{kind}' is not one of {known}: container_format"})
            return
        for key, value in record.items():
            wanted = int if key in ("min_disk", "min_ram") else str
            if not isinstance(value, wanted) or any(ord(c) > 0xFFFF for c in str(value)):
                self._send(400, {"message": f"{key} is not {wanted.__name__}"})
                return
        identity = record.get("id") or str(uuid.uuid4())
        if identity in self.fake.images:
            self._send(409, {"message": "there is one"})
            return
        self.fake.images[identity] = record | {
            "id": identity,
            "status": "queued",
            "file": f"/v2/images/{identity}/file",
        }
        self._send(201, self.fake.images[identity])

    def do_PUT(self) -> None:
        match = re.fullmatch(r"/v2/images/([^/]+)/file", urlsplit(self.path).path)
        assert match
        if self._answered():
            return
        image = self.fake.images[match[1]]
        if self.fake.stall or self.fake.vanish:
            image["status"] = "saving"
            self.fake.uploading.set()
        if self.fake.vanish:
            self.fake.gone = self.close_connection = True
            return
        if self.fake.stall:
            self.fake.released.wait(30)
        body = self._body()
        if image["disk_format"] == self.fake.refuse_upload:
            self._send(413, {"message": "quota"})
            return
        image |= {"status": "active", "checksum": hashlib.md5(body).hexdigest()}  # noqa: S324
        image |= {"os_hash_algo": "sha256", "os_hash_value": hashlib.sha256(body).hexdigest()}
        self.fake.uploads[match[1]] = hashlib.sha256(body).hexdigest(), len(body)
        self._send(204, None)

    def do_DELETE(self) -> None:
        identity = urlsplit(self.path).path.removeprefix("/v2/images/")
        if self.fake.keep:
            self._send(403, {"message": "protected"})
        elif self.fake.images.pop(identity, None) is None:
            self._send(404, {"message": "no image"})
        else:
            self._send(204, None)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, value: Any) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running(**quirks: Any) -> Iterator[FakeGlance]:
    """A fake Glance that serves on ``fake.url``."""
    fake = FakeGlance(**quirks)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
