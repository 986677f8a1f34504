"""A forward proxy on this host that notes what apt asks it for (RFC 9112, absolute-form)."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FORWARDED = ("If-Modified-Since", "Range", "If-Range", "Cache-Control", "User-Agent")
RETURNED = ("Content-Length", "Content-Range", "Content-Type", "Last-Modified", "ETag", "Date")


class CountingProxy(ThreadingHTTPServer):
    """``asked`` are the URLs of all requests, in their order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def packages(self) -> set[str]:
        """The names of the packages that were asked for."""
        return {url.rpartition("/")[2].split("_")[0] for url in self.asked if url.endswith(".deb")}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CountingProxy

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        headers = {name: self.headers[name] for name in FORWARDED if name in self.headers}
        request = urllib.request.Request(self.path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error.code, dict(error.headers), error.read())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name in RETURNED:
            if name in headers and name != "Content-Length":
                self.send_header(name, headers[name])
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 304:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def counting_proxy() -> Iterator[CountingProxy]:
    """A proxy for the length of a block."""
    with CountingProxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
