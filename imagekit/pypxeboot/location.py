"""Names of files on boot servers: how a name in a config becomes a server, a protocol and a path.

Source: SYSLINUX 6 documentation, "PXELINUX" (the prefix goes before every name; ``::name`` and
``host::name`` suppress it; names may be URLs), RFC 3617 (tftp URLs).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from imagekit.errors import SpecError

SCHEMES = ("tftp", "http", "https")
MAX_NAME = 1024


@dataclass(frozen=True)
class Location:
    """A file, or with a path ending in "/" (or empty) a directory, on a boot server.

    ``port`` is None for the protocol's own. ``path`` is as TFTP sends it; for HTTP it begins at
    the root of the server. ``query`` (HTTP only) excludes the question mark.
    """

    scheme: str
    host: str
    path: str
    port: int | None = None
    query: str = ""

    @property
    def url(self) -> str:
        """The location as a URL, to fetch it by HTTP or to show it."""
        port = f":{self.port}" if self.port else ""
        query = f"?{self.query}" if self.query else ""
        path = self.path.lstrip("/")
        if self.is_http:
            path = quote(path, safe="/:@!$&'()*+,;=~")
        return f"{self.scheme}://{self.host}{port}/{path}{query}"

    def directory(self) -> Location:
        """The directory this file is in."""
        return replace(self, path=self.path[: self.path.rfind("/") + 1], query="")

    def resolve(self, name: str) -> Location:
        """The file that ``name`` means in a config whose prefix is this directory.

        Raises SpecError for names that climb above the server's root or hold control characters.
        """
        check_name(name)
        if is_url(name):
            return from_url(name)
        host, marker, rest = name.partition("::")
        if marker and re.fullmatch("[A-Za-z0-9.-]*", host, re.ASCII):
            if not host or host == self.host:
                return replace(self, path=normalise("/" + rest if self.is_http else rest), query="")
            return Location("tftp", host.lower(), normalise(rest))
        if self.is_http:
            name, _, query = name.partition("?")
            return replace(self, path=normalise(self.path + unquote(name)), query=query)
        return replace(self, path=normalise(self.path + name), query="")

    @property
    def is_http(self) -> bool:
        """Whether the file is fetched over HTTP or HTTPS."""
        return self.scheme != "tftp"


def is_url(name: str) -> bool:
    """Whether ``name`` begins with a protocol, known to us or not."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def from_url(url: str) -> Location:
    """Read a tftp, http or https URL; raises SpecError for any other."""
    check_name(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SpecError(f"{url[:200]!r} is not a usable URL: {error}") from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise SpecError(f"{url[:200]!r} is not a URL to boot from", hint="tftp, http and https are")
    if parts.username is not None:
        raise SpecError(f"{url[:200]!r} holds a user name", hint="leave it out")
    if ":" in parts.hostname:
        raise SpecError(f"{url[:200]!r} names an IPv6 address", hint="use the server's name")
    path = normalise(unquote(parts.path.removeprefix("/")))
    if parts.scheme != "tftp":
        path = "/" + path.lstrip("/")
    check_name(path or "/")
    return Location(parts.scheme, parts.hostname, path, port, parts.query)


def server_root(address: str, prefix: str) -> Location:
    """The directory ``prefix`` (a path, or a URL) on the TFTP server ``address``."""
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    if is_url(prefix):
        return from_url(prefix)
    if prefix:
        check_name(prefix)
    return Location("tftp", address, normalise(prefix))


def normalise(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled slashes; a final slash stays.

    Raises SpecError when it climbs above its root.
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                raise SpecError(f"the file name {path[:200]!r} leaves the server's root")
            parts.pop()
        else:
            parts.append(part)
    leading = "/" if path.startswith("/") else ""
    trailing = "/" if parts and path.endswith(("/", "/.", "/..")) else ""
    return leading + "/".join(parts) + trailing


def check_name(name: str) -> None:
    """Raise SpecError for a file name no server can have: empty, endless, control characters."""
    if not name or len(name) > MAX_NAME:
        raise SpecError(
            f"a file name of {len(name)} characters", hint=f"1 to {MAX_NAME} are usable"
        )
    if any(
        ord(char) < 0x20 or ord(char) == 0x7F or ord(char) in range(0xD800, 0xE000) for char in name
    ):
        raise SpecError(f"control characters in the file name {name[:200]!r}")
