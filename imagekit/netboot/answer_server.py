"""The HTTP side of a published tree: files for everybody, secret answers once, "done" for guests.

Only what the tree's state names is served, so no path can lead elsewhere. ``GET /done/TOKEN`` is
what an installer's last command fetches to flip its guest to its own disk.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any
from urllib.parse import unquote

from imagekit.errors import BusyError, ImagekitError
from imagekit.netboot import publish, tree

MAX_CONNECTIONS = 64
MAX_PER_ADDRESS = 8
SILENCE_SECONDS = 30.0
REQUEST_SECONDS = 20.0
SLOWEST_BYTES_PER_SECOND = 32 << 10
MAX_PATH = 1024
MAX_LINE = 2048
FLIP_TRIES = 20
FLIP_PAUSE_SECONDS = 0.5
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")


class AnswerServer(ThreadingHTTPServer):
    """Serves the tree at ``root`` on ``address`` (host, port; port 0 picks one).

    At most MAX_CONNECTIONS at a time, MAX_PER_ADDRESS of them of one address. A client is cut off
    that is silent for SILENCE_SECONDS, that takes more than REQUEST_SECONDS to ask, or that takes
    its file at less than SLOWEST_BYTES_PER_SECOND. ``log`` gets lines of printable characters.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, root: Path, address: tuple[str, int], log: Callable[[str], None]) -> None:
        self.root = root
        self._log = log
        self._open: dict[socket, tuple[str, float]] = {}
        self._open_lock = threading.Lock()
        self._claims: set[str] = set()
        self._claims_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread, or drop it when too many are open."""
        address = client_address[0]
        with self._open_lock:
            theirs = Counter(owner for owner, _ in self._open.values())[address]
            full = len(self._open) >= MAX_CONNECTIONS or theirs >= MAX_PER_ADDRESS
            if not full:
                self._open[request] = (address, time.monotonic() + REQUEST_SECONDS)
        if full:
            self.log(f"{address}: dropped, {len(self._open)} connections are open, {theirs} of it")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket) -> None:
        with self._open_lock:
            self._open.pop(request, None)

    def allow(self, request: socket, size: int) -> None:
        """Give a connection the time that ``size`` bytes may take from now."""
        with self._open_lock:
            if request in self._open:
                seconds = REQUEST_SECONDS + size / SLOWEST_BYTES_PER_SECOND
                self._open[request] = (self._open[request][0], time.monotonic() + seconds)

    def service_actions(self) -> None:
        """Cut off connections whose time is over; serve_forever calls this all the time."""
        now = time.monotonic()
        with self._open_lock:
            late = [(conn, own) for conn, (own, until) in self._open.items() if until < now]
            for connection, owner in late:
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)
                # Its thread sees the end and gives the place back.
                self._open[connection] = (owner, math.inf)
        for _, owner in late:
            self.log(f"{owner}: cut off, it took too long")

    def log(self, text: str) -> None:
        """Log a line; what a terminal could take for a command is escaped."""
        self._log("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))

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
                os.close(
                    os.open(
                        directory / token,
                        os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        0o600,
                    )
                )
            self._claims.discard(token)


class _Handler(BaseHTTPRequestHandler):
    server: AnswerServer
    connection: socket
    timeout = SILENCE_SECONDS
    server_version = "imagekit"
    sys_version = ""
    _public = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        self.server.allow(self.connection, 0)
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
                self._public = path
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
            size = os.fstat(stream.fileno()).st_size
            self.server.allow(self.connection, size)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(size))
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
        # A token in a log is as good as the answers themselves, wherever in a request it stands.
        text = unquote(format % args)
        pieces = text.split(self._public) if self._public else [text]
        shown = self._public.join(_TOKEN.sub("...", piece) for piece in pieces)
        self.server.log(f"{self.client_address[0]}: {shown[:MAX_LINE]}")
