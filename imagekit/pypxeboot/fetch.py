"""Getting files from boot servers, and from no other host."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from imagekit.errors import DownloadError
from imagekit.pypxeboot import tftp
from imagekit.pypxeboot.location import Location
from imagekit.pypxeboot.transfer import Deadline, Receiver

if TYPE_CHECKING:
    import ssl


class Fetcher:
    """Fetches locations on the ``allowed`` hosts (names or addresses, in lower case)."""

    def __init__(
        self,
        allowed: Collection[str],
        deadline: Deadline,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = {host.lower() for host in allowed if host}
        self._deadline = deadline
        self._tls = tls

    def allows(self, host: str) -> bool:
        """Whether files may come from ``host``."""
        return host.lower() in self._allowed

    def receiver(self, location: Location, max_bytes: int, fd: int | None = None) -> Receiver:
        """A receiver for this location, under the session's deadline."""
        return Receiver(location.url, max_bytes, self._deadline, fd)

    def fetch(self, location: Location, receiver: Receiver) -> None:
        """Read the file into ``receiver``; raises NotFoundError or another DownloadError."""
        self._deadline.check("booting", location.url)
        if not self.allows(location.host):
            raise DownloadError(
                f"the host {location.host} is not one to boot from",
                where=location.url,
                hint="allow it with --allow-host if it is yours",
            )
        if location.is_http:
            from imagekit.pypxeboot import http_fetch

            http_fetch.fetch(
                location.url, receiver, self._deadline, allowed=self.allows, tls=self._tls
            )
        else:
            port = location.port or tftp.PORT
            server = address_of(location.host)
            tftp.fetch(server, location.path, receiver, self._deadline, port=port)

    def text(self, location: Location, max_bytes: int) -> str:
        """The text of a config file; bytes that are not UTF-8 are read as Latin-1."""
        receiver = self.receiver(location, max_bytes)
        self.fetch(location, receiver)
        raw = receiver.content()
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            return raw.decode("latin-1")


def address_of(host: str) -> str:
    """The IPv4 address of ``host``, a name or an address; raises DownloadError."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise DownloadError(
            f"cannot resolve the boot server's name: {error}", where=host
        ) from error
    return str(found[0][4][0])


def tls_for(ca_file: str, http: str) -> ssl.SSLContext | None:
    """The TLS context when it must be made early (a private authority), else None."""
    if not ca_file and not http.startswith("https:"):
        return None
    from imagekit.pypxeboot import http_fetch

    return http_fetch.tls_context(Path(ca_file) if ca_file else None)
