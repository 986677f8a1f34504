"""An HTTP server that answers with whatever bytes a test scripts, in pieces, with pauses."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable

Script = Iterable[bytes | float]


class ScriptedHttp:
    """``answer(path)`` gives bytes to send and seconds to wait, in turn; then the line is cut.

    An endless reply is a generator.
    """

    def __init__(
        self,
        answer: Callable[[str], Script],
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._tls = tls
        if sock is None:
            sock = socket.create_server(("127.0.0.1", 0))
        self._sock = sock
        self.port = sock.getsockname()[1]
        self.paths: list[str] = []

    def url(self, path: str = "/f", host: str = "127.0.0.1") -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host}:{self.port}{path}"

    def __enter__(self) -> ScriptedHttp:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        try:
            if self._tls:
                line = self._tls.wrap_socket(line, server_side=True)
            asked = b""
            while b"\r\n\r\n" not in asked:
                piece = line.recv(4096)
                if not piece:
                    return
                asked += piece
            path = asked.split(b" ")[1].decode()
            self.paths.append(path)
            for step in self._answer(path):
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    line.sendall(step)
            line.shutdown(socket.SHUT_WR)
        except OSError:
            return
        finally:
            line.close()


def ok(body: bytes) -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]


def redirect(target: str, status: int = 302) -> list[bytes]:
    return [f"HTTP/1.1 {status} R\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()]
