"""A session with XenServer or XCP-ng: calls through the XenAPI package, uploads by HTTP.

The package (optional) speaks XML-RPC over the transport below, which bounds time and the size of
an answer. Uploads go to ``PUT /import_raw_vdi`` and ``PUT /import``. Source: the XenAPI reference;
xapi-project/xen-api, ``ocaml/xapi/import_raw_vdi.ml``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
import xml.parsers.expat
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from imagekit.domain.text import one_line, refuse
from imagekit.errors import DownloadError, HostError, ImagekitError, ToolError

MAX_ANSWER_BYTES = 64 << 20
_POLL_SECONDS = (0.05, 2.0)
_BROKEN = (
    *(OSError, HTTPException, xmlrpc.client.Error, xml.parsers.expat.ExpatError),
    *(TypeError, ValueError, LookupError, AttributeError),
)
"""What a lost connection or an answer that is no XML-RPC ends in, inside xmlrpc and XenAPI."""


@dataclass(frozen=True)
class Pool:
    """Where XAPI is and how to log in. ``url`` is that of the pool's master, https://HOST.

    ``cafile`` has the certificates to trust (XenServer's own is self-signed), ``insecure`` trusts
    any. ``timeout`` bounds a call's silence, ``task_timeout`` an import, in seconds.
    """

    url: str
    username: str
    password: str = field(repr=False)
    cafile: Path | None = None
    insecure: bool = False
    timeout: float = 60.0
    task_timeout: float = 3600.0

    def __post_init__(self) -> None:
        one_line(self.url, "url")
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host, parts = "", urlsplit("")
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            refuse(
                f"{self.url!r} is not a URL of a server", "url", "as in https://xen1.example.org"
            )
        if parts.scheme == "http" and not _loopback(host):
            refuse("the password would cross the network in clear", "url", "write https://")

    def context(self) -> ssl.SSLContext | None:
        """How to check the server; None for http. Raises HostError for unreadable certificates."""
        if not self.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except OSError as error:
            what = f"the certificates cannot be read: {error}"
            raise HostError(what, where=str(self.cafile)) from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Transport(xmlrpc.client.Transport):
    """XML-RPC with limits, one connection per call: none waits, and none is sent twice."""

    user_agent = "imagekit"
    accept_gzip_encoding = False

    def __init__(self, context: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__()
        self._context = context
        self._timeout = timeout

    def make_connection(self, host: Any) -> HTTPConnection:
        name, self._extra_headers, _ = self.get_host_info(host)
        if self._context is None:
            connection = HTTPConnection(name, timeout=self._timeout)
        else:
            connection = HTTPSConnection(name, timeout=self._timeout, context=self._context)
        self._connection = host, connection
        return connection

    def request(  # xmlrpc.client calls it with these, by place
        self,
        host: Any,
        handler: str,
        request_body: Any,
        verbose: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        try:
            return self.single_request(host, handler, request_body, verbose)
        finally:
            self.close()

    def parse_response(self, response: Any) -> Any:
        data: bytes = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise HTTPException(f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
        parser, target = self.getparser()
        parser.feed(data)
        parser.close()
        return target.close()


class Api:
    """An open session; made by :func:`session`."""

    def __init__(self, pool: Pool, module: ModuleType) -> None:
        self.pool = pool
        self._module = module
        transport = _Transport(pool.context(), pool.timeout)
        self._session: Any = module.Session(pool.url, transport=transport)

    @property
    def handle(self) -> str:
        """The session's reference."""
        return str(self._session.handle)

    def call(self, method: str, *arguments: object) -> Any:
        """Call ``method``, as in ``VM.create``; its result.

        Raises ToolError with XAPI's own words when it refuses, DownloadError when it is not there
        or answers with something else.
        """
        target = self._session.xenapi
        for name in method.split("."):
            target = getattr(target, name)
        try:
            return target(*arguments)
        except self._module.Failure as error:
            raise self._refusal(method, getattr(error, "details", None)) from None
        except _BROKEN as error:
            raise unreachable(self.pool.url, method, error) from error

    def text(self, method: str, *arguments: object) -> str:
        """:meth:`call` where the result is a string; DownloadError when it is not."""
        result = self.call(method, *arguments)
        if not isinstance(result, str):
            raise DownloadError(f"{method} gave no text", where=self.pool.url)
        return result

    def records(self, method: str) -> dict[str, dict[str, Any]]:
        """:meth:`call` where the result is records by reference; DownloadError otherwise."""
        result = self.call(method)
        if not isinstance(result, dict) or not all(isinstance(r, dict) for r in result.values()):
            raise DownloadError(f"{method} gave no records", where=self.pool.url)
        return result

    def _refusal(self, method: str, details: object) -> ToolError:
        words = [str(word) for word in details] if isinstance(details, list) else []
        hint = None
        if words[:1] == ["HOST_IS_SLAVE"]:
            hint = f"connect to the pool's master, https://{' '.join(words[1:2])}"
        elif words[:1] == ["SESSION_AUTHENTICATION_FAILED"]:
            hint = "check user name and password"
        reason = words[0] if words else "no reason given"
        return ToolError(
            f"XAPI refused {method}: {reason}"[:500],
            where=self.pool.url,
            hint=hint,
            output="\n".join(words)[:4000],
        )

    def finish(self, task: str, what: str) -> str:
        """Wait until ``task`` is over; its result. Raises ToolError when it failed or took long."""
        deadline = time.monotonic() + self.pool.task_timeout
        pause, longest = _POLL_SECONDS
        while (status := self.text("task.get_status", task)) == "pending":
            if time.monotonic() > deadline:
                with contextlib.suppress(ImagekitError):
                    self.call("task.cancel", task)
                raise ToolError(
                    f"{what} took longer than {self.pool.task_timeout:.0f} s", where=self.pool.url
                )
            time.sleep(pause)
            pause = min(2 * pause, longest)
        if status != "success":
            raise self._refusal(what, self.call("task.get_error_info", task))
        return self.text("task.get_result", task)


@contextlib.contextmanager
def session(pool: Pool) -> Iterator[Api]:
    """Log in, yield the session, log out.

    Raises HostError when the XenAPI package is missing, ToolError when the login is refused,
    DownloadError when the server cannot be reached.
    """
    try:
        import XenAPI
    except ImportError:
        raise HostError(
            "talking to XAPI needs the Python package XenAPI",
            hint="pip install XenAPI",
        ) from None
    api = Api(pool, XenAPI)
    api.call("login_with_password", pool.username, pool.password, "1.0", "imagekit")
    try:
        yield api
    finally:
        with contextlib.suppress(ImagekitError):
            api.call("session.logout")


def unreachable(url: str, what: str, error: BaseException) -> DownloadError:
    """The error for a server that is not there, or does not speak XAPI's protocol."""
    hint = "check the address, and that XAPI runs there"
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "name the server's certificate (--cafile), as XenServer's own is self-signed"
    reason = str(error) or type(error).__name__
    return DownloadError(f"{what} failed: {reason}"[:500], where=url, hint=hint)
