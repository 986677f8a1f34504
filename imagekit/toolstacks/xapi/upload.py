"""Upload a file to XAPI by ``PUT``, while it may answer before the body is there.

XAPI checks, attaches the disk, answers, and only then reads; a host that lacks the storage answers
with a redirection to one that has it. Source: ``ocaml/xapi/import_raw_vdi.ml``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

from imagekit.disk.extents import opened, size_of
from imagekit.errors import DownloadError, ImagekitError
from imagekit.toolstacks.tarball import copy_whole
from imagekit.toolstacks.xapi.session import Pool, unreachable

EARLY_ANSWER_SECONDS = 5.0
"""How long to wait for the answer before sending the body anyway."""
_MAX_HOPS = 3
_MAX_BODY = 4096


def upload(pool: Pool, path: str, query: Mapping[str, str], source: Path) -> None:
    """Send ``source`` whole, holes as zeros, to ``path`` of the server in ``pool``.

    Follows redirections within the pool (three at most, never from https to http). Raises
    DownloadError when the server refuses or goes away, HostError for a file that cannot be read.
    """
    url = urljoin(pool.url, f"{path}?{urlencode(query)}")
    where = urljoin(pool.url, path)
    with opened(source) as fd:
        size = size_of(fd)
        for _ in range(_MAX_HOPS + 1):
            try:
                target = _put(pool, url, fd, size)
            except ImagekitError:
                raise
            except (OSError, HTTPException, ValueError) as error:
                raise unreachable(where, f"uploading {source}", error) from error
            if target is None:
                return
            url = _redirected(url, target, where)
    raise DownloadError("redirects in circles", where=where)


def _redirected(url: str, target: str, where: str) -> str:
    joined = urljoin(url, target)
    if urlsplit(joined).scheme != urlsplit(url).scheme or not urlsplit(joined).hostname:
        raise DownloadError(
            "redirects to an address that is not like its own", where=where, hint="name that host"
        )
    return joined


@contextlib.contextmanager
def _connected(pool: Pool, url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    context = pool.context()
    port = parts.port or (80 if context is None else 443)
    with socket.create_connection((host, port), timeout=pool.timeout) as plain:
        if context is None:
            yield plain
        else:
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                yield wrapped


def _put(pool: Pool, url: str, fd: int, size: int) -> str | None:
    """One attempt; where to go instead, or None when the file was taken."""
    parts = urlsplit(url)
    head = (
        f"PUT {parts.path}?{parts.query} HTTP/1.1\r\n"
        f"Host: {parts.netloc}\r\n"
        f"Content-Length: {size}\r\n"
        "Content-Type: application/octet-stream\r\n"
        "User-Agent: imagekit\r\n"
        "Connection: close\r\n\r\n"
    )
    with _connected(pool, url) as connection:
        connection.sendall(head.encode("ascii"))
        answer = _early_answer(pool, connection)
        if answer is None or 200 <= answer.status < 300:
            try:
                copy_whole(fd, _Sender(connection), size)
            except (ConnectionError, ssl.SSLError):
                # The server hung up: its answer, if there is one, says more than that.
                answer = answer or _answer(connection)
                _check(answer, url)
                raise
            answer = answer or _answer(connection)
        return _check(answer, url)


class _Sender:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, data: bytes | memoryview, /) -> None:
        self._connection.sendall(data)


def _answer(connection: socket.socket) -> HTTPResponse:
    answer = HTTPResponse(connection, method="PUT")
    answer.begin()
    return answer


def _early_answer(pool: Pool, connection: socket.socket) -> HTTPResponse | None:
    connection.settimeout(min(EARLY_ANSWER_SECONDS, pool.timeout))
    try:
        return _answer(connection)
    except TimeoutError:
        return None
    finally:
        connection.settimeout(pool.timeout)


def _check(answer: HTTPResponse, url: str) -> str | None:
    location = answer.getheader("Location")
    if answer.status in (301, 302, 303, 307, 308) and location:
        return location
    rest = answer.read(_MAX_BODY)
    if 200 <= answer.status < 300:
        return None
    text = rest.decode("utf-8", "replace").strip()
    raise DownloadError(
        f"XAPI answered {answer.status} {answer.reason}: {text}"[:500],
        where=urljoin(url, urlsplit(url).path),
        hint="xensource.log on the server says why",
    )
