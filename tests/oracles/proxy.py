"""A forward HTTP proxy on loopback that wants a user and a password (RFC 9110, 11.7)."""

from __future__ import annotations

import base64
import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def proxy(user: str, password: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the proxy's port and the list of URLs it fetched for those who knew the password."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Proxy-Authorization") != wanted:
                self._answer(407, b"", {"Proxy-Authenticate": 'Basic realm="p"'})
                return
            names = ("If-Modified-Since", "Range", "Cache-Control")
            headers = {k: v for k in names if (v := self.headers.get(k))}
            request = urllib.request.Request(self.path, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    body, status = answer.read(), answer.status
                    kept = {k: v for k in ("Last-Modified",) if (v := answer.headers.get(k))}
            except urllib.error.HTTPError as error:
                body, status, kept = error.read(), error.code, {}
            fetched.append(self.path)
            self._answer(status, body, kept)

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, fetched
    finally:
        server.shutdown()
        server.server_close()
