"""The HTTP side of a published tree: files for everybody, secret answers once, "done" for guests.

Only what the tree's state names is served, so no path can lead elsewhere. ``GET /done/TOKEN`` is
what an installer's last command fetches to flip its guest to its own disk.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any

from imagekit.errors import BusyError, ImagekitError
from imagekit.netboot import publish, tree

MAX_CONNECTIONS = 64
SILENCE_SECONDS = 30.0
MAX_PATH = 1024
FLIP_TRIES = 20
FLIP_PAUSE_SECONDS = 0.5


class AnswerServer(ThreadingHTTPServer):
    """Serves the tree at ``root`` on ``address`` (host, port; port 0 picks one).

    At most MAX_CONNECTIONS at a time; a client that is silent for SILENCE_SECONDS is cut off.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, root: Path, address: tuple[str, int], log: Callable[[str], None]) -> None:
        self.root = root
        self.log = log
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._claims: set[str] = set()
        self._claims_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread, or drop it when too many are open."""
        if not self._free.acquire(blocking=False):
            self.log(f"{client_address[0]}: dropped, {MAX_CONNECTIONS} connections are open")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        """Log a connection that broke; one bad client is no event for the server."""
        self.log(f"{client_address[0]}: the connection broke")

    def claim(self, token: str) -> bool:
        """Reserve one-time answers for one client; false when they were served or are being."""
        with self._claims_lock:
            if token in self._claims or (self.root / "used" / token).exists():
                return False
            self._claims.add(token)
            return True

    def settle(self, token: str, *, served: bool) -> None:
        """Give a claim back, or mark it as used for good."""
        with self._claims_lock:
            if served:
                directory = self.root / "used"
                directory.mkdir(mode=0o700, exist_ok=True)
                os.close(os.open(directory / token, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._claims.discard(token)


class _Handler(BaseHTTPRequestHandler):
    server: AnswerServer
    connection: socket
    timeout = SILENCE_SECONDS
    server_version = "imagekit"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0].removeprefix("/")
        if len(path) > MAX_PATH or not re.fullmatch(r"[A-Za-z0-9/._+:-]+", path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            state = tree.load(self.server.root)
            if path.startswith("done/"):
                self._done(state, path.removeprefix("done/"), with_body=with_body)
            elif path.startswith("answers/"):
                self._answers(state, path, with_body=with_body)
            elif f"tftp/{path}" in state.files:
                self._send(self.server.root / "tftp" / path, with_body=with_body)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
        except BusyError:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        except ImagekitError as error:
            self.server.log(str(error))
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answers(self, state: tree.State, path: str, *, with_body: bool) -> None:
        record = next((r for r in state.guests.values() if r.answers == path), None)
        if record is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not record.secret:
            self._send(self.server.root / path, with_body=with_body)
        elif record.mode != "install":
            self.send_error(HTTPStatus.FORBIDDEN)
        elif not with_body:
            self.send_response(HTTPStatus.OK)
            self.end_headers()
        elif not self.server.claim(record.token):
            self.send_error(HTTPStatus.GONE)
        else:
            served = False
            try:
                served = self._send(self.server.root / path, with_body=True)
            finally:
                self.server.settle(record.token, served=served)

    def _done(self, state: tree.State, token: str, *, with_body: bool) -> None:
        name = next((n for n, r in state.guests.items() if r.done_token == token and token), None)
        if name is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if with_body and state.guests[name].mode != "local":
            self._flip(name)
            self.server.log(f"{name}: installed, boots its own disk from now on")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _flip(self, name: str) -> None:
        # An installer asks once; another imagekit may hold the tree just then.
        for attempt in range(FLIP_TRIES):
            try:
                publish.flip(self.server.root, name, "local")
                return
            except BusyError:
                if attempt == FLIP_TRIES - 1:
                    raise
                time.sleep(FLIP_PAUSE_SECONDS)

    def _send(self, path: Path, *, with_body: bool) -> bool:
        """Send a file; true when the client's machine has acknowledged all of it."""
        try:
            stream = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return False
        with stream:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(stream.fileno()).st_size))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if not with_body:
                return True
            with suppress(OSError):
                shutil.copyfileobj(stream, self.wfile, 1 << 16)
                self.wfile.flush()
                return True
        return False

    def log_message(self, format: str, *args: Any) -> None:
        text = format % args
        # A token in a log is as good as the answers themselves.
        text = re.sub(r"/(answers|done)/[A-Za-z0-9_-]{8}[A-Za-z0-9_-]*", r"/\1/...", text)
        self.server.log(f"{self.client_address[0]}: {text}")
