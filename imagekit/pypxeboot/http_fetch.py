"""Fetching one file over HTTP or HTTPS: bounded, certificates verified, redirects on a leash.

Proxy variables of the environment are not looked at: a bootloader talks to its boot server.
Sources: RFC 9110 (redirects, Content-Length); the protocol itself is ``http.client``'s.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from imagekit.errors import DownloadError, HostError
from imagekit.pypxeboot.transfer import Deadline, NotFoundError, Receiver

if TYPE_CHECKING:
    import ssl

MAX_REDIRECTS = 5
CHUNK = 65536
CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
REDIRECTS = (301, 302, 303, 307, 308)


def fetch(
    url: str,
    receiver: Receiver,
    deadline: Deadline,
    *,
    allowed: Callable[[str], bool],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Read ``url`` into ``receiver``.

    ``allowed(host)`` decides for the first host and for each one redirected to; HTTPS never leads
    back to HTTP. Raises NotFoundError for 404 and 410, DownloadError for everything else.
    """
    for _ in range(MAX_REDIRECTS + 1):
        target = _Target(url, allowed)
        answer = _get(target, receiver, deadline, tls)
        if answer is None:
            return
        following = urljoin(url, answer)
        if target.scheme == "https" and urlsplit(following).scheme != "https":
            raise DownloadError(
                f"the server redirects to {_shown(following)}, away from HTTPS", where=_shown(url)
            )
        url = following
    raise DownloadError(f"more than {MAX_REDIRECTS} redirects", where=_shown(url))


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A verifying TLS context that trusts the system's authorities, or ``ca_file`` alone."""
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"cannot load the certificates: {error}", where=str(ca_file)) from error


class _Target:
    def __init__(self, url: str, allowed: Callable[[str], bool]) -> None:
        try:
            parts = urlsplit(url)
            self.port = parts.port
        except ValueError as error:
            raise DownloadError(f"not a usable URL: {error}", where=_shown(url)) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError("only http and https URLs are fetched", where=_shown(url))
        if parts.username is not None or parts.password is not None:
            raise DownloadError("URLs with a user name are not accepted", where=_shown(url))
        if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
            raise DownloadError("blanks or control characters in the URL", where=_shown(url))
        if not allowed(parts.hostname):
            raise DownloadError(
                f"the host {parts.hostname} is not one to boot from",
                where=_shown(url),
                hint="allow it with --allow-host if it is yours",
            )
        self.scheme = parts.scheme
        self.host = parts.hostname
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        self.path = path + (
            "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
        )
        self.shown = _shown(url)


def _get(
    target: _Target, receiver: Receiver, deadline: Deadline, tls: ssl.SSLContext | None
) -> str | None:
    """One request; the address redirected to, or None when the file was received."""
    deadline.check("the HTTP transfer", target.shown)
    connection = http.client.HTTPConnection(target.host, target.port)
    line = _Line()
    # http.client bounds each read, not their sum; a server could drip its headers for days.
    watchdog = threading.Timer(deadline.remaining(), line.cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.sock = line.open(target, deadline, tls)
        connection.request(
            "GET",
            target.path,
            headers={"User-Agent": "imagekit", "Accept-Encoding": "identity"},
        )
        answer = _read(connection.getresponse(), target, receiver)
        # A line cut by the watchdog looks like the end of a file without a length.
        deadline.check("the HTTP transfer", target.shown)
        return answer
    except http.client.HTTPException as error:
        deadline.check("the HTTP transfer", target.shown)
        what = f"the server broke the protocol ({type(error).__name__})"
        raise DownloadError(what, where=target.shown) from error
    except (OSError, ValueError) as error:
        deadline.check("the HTTP transfer", target.shown)
        raise DownloadError(f"the transfer broke: {error}", where=target.shown) from error
    finally:
        watchdog.cancel()
        connection.close()
        line.close()


class _Line:
    """The socket under a request, which another thread can cut at any moment."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None

    def open(
        self, target: _Target, deadline: Deadline, tls: ssl.SSLContext | None
    ) -> socket.socket:
        patience = max(0.1, min(CONNECT_SECONDS, deadline.remaining()))
        port = target.port or (443 if target.scheme == "https" else 80)
        sock = socket.create_connection((target.host, port), patience)
        self._sock = sock
        if target.scheme == "https":
            secured = (tls or tls_context()).wrap_socket(
                sock, server_hostname=target.host, do_handshake_on_connect=False
            )
            self._sock = sock = secured
            secured.do_handshake()
        sock.settimeout(max(0.1, min(SILENCE_SECONDS, deadline.remaining())))
        return sock

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    def cut(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, target: _Target, receiver: Receiver) -> str | None:
    if response.status in REDIRECTS:
        location = response.getheader("Location")
        if not location or len(location) > 2048:
            raise DownloadError("a redirect without a usable address", where=target.shown)
        return location
    if response.status in (404, 410):
        raise NotFoundError(
            f"the HTTP server does not have this file ({response.status})", where=target.shown
        )
    if response.status != 200:
        raise DownloadError(f"the HTTP server says {response.status}", where=target.shown)
    announced = response.length
    if announced is not None:
        receiver.announce(announced)
    got = 0
    while chunk := response.read1(CHUNK):
        got += len(chunk)
        receiver.write(chunk)
    if announced is not None and got != announced:
        raise DownloadError(f"{announced} bytes were announced, {got} came", where=target.shown)
    return None


def _shown(url: str) -> str:
    text = url if len(url) <= 200 else url[:200] + "..."
    return "".join(char if char.isprintable() else "?" for char in text)
