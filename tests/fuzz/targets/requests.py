"""What clients ask of the answers server."""

from __future__ import annotations

import io
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

from imagekit.netboot import answer_server, tree

from .. import mutate
from ..target import Target

_PUBLISHED: list[tempfile.TemporaryDirectory[str]] = []
_REQUESTS = (
    b"GET /debian/linux HTTP/1.1\r\nHost: h\r\n\r\nHEAD /debian/linux HTTP/1.1\r\n\r\n",
    b"GET /answers/abcdefghijklmnop/preseed.cfg?x=1 HTTP/1.0\r\nUser-Agent: d-i\r\n\r\n",
    b"GET /done/abcdefghijklmnopq HTTP/1.1\r\nConnection: close\r\n\r\n",
)
_REQUEST_WORDS = (
    *("GET", "HEAD", "POST", "HTTP/0.9", "HTTP/1.1", "HTTP/9.9", "/", "/../x", "/%2e%2e/", "//"),
    *("/tftp/debian/linux", "Expect: 100-continue", "Content-Length: 9", "\x1b[2J", "A" * 3000),
    *("/debian/linux", "http://h/debian/linux", "Range: bytes=0-", "X:" * 200, "/published.json"),
)


class _Client:
    """A connection on which everything was asked already."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sent = b""

    def makefile(self, _mode: str, _buffering: int = -1) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _seconds: float) -> None:
        pass


def _requests() -> tuple[bytes, ...]:
    place = tempfile.TemporaryDirectory(prefix="imagekit-fuzz-", dir="/dev/shm")
    _PUBLISHED[:] = [place]
    root = Path(place.name)
    for name in ("tftp/debian", "answers/abcdefghijklmnop"):
        (root / name).mkdir(parents=True)
    (root / "tftp/debian/linux").write_bytes(b"kernel")
    (root / "answers/abcdefghijklmnop/preseed.cfg").write_bytes(b"d-i a/b string c")
    guest = tree.GuestRecord(
        "00:16:3e:00:00:01", "192.0.2.5", "local", "debian/linux", "", "",
        answers="answers/abcdefghijklmnop/preseed.cfg", done_token="abcdefghijklmnopq",
    )  # fmt: skip
    tree.save(root, tree.State("/x", "http://h", {"web01": guest}, {"debian/linux": ["0" * 64]}))
    return _REQUESTS


def _request(data: bytes) -> bool:
    said: list[str] = []
    server = answer_server.AnswerServer.__new__(answer_server.AnswerServer)
    server.root, server._log = Path(_PUBLISHED[0].name), said.append
    server._open, server._open_lock = {}, threading.Lock()
    server._claims, server._claims_lock = set(), threading.Lock()
    client: Any = _Client(data)
    answer_server._Handler(client, ("192.0.2.9", 1), server)
    assert all(line.isprintable() for line in said)
    assert not any("abcdefghijklmnop" in line for line in said)
    return b" 200 OK" in client.sent or b" 404 " in client.sent


def _mutate_request(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _REQUEST_WORDS)


TARGETS = (Target("http-request", _requests, _mutate_request, _request, (), ()),)
