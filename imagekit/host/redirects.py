"""Where a server may send a client of ours to: HTTPS leads to HTTPS, HTTP to both (RFC 9110, 15.4).

A certificate vouches for the first address; whoever sits on the way of the second would have the
say otherwise.
"""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from imagekit.errors import DownloadError


class Leashed(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, and from https to https only.

    Raises DownloadError for any other.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows, as urllib has it."""
        before, after = urlsplit(req.full_url).scheme.lower(), urlsplit(newurl).scheme.lower()
        if after not in ("http", "https"):
            raise DownloadError("the server redirects to what is neither http nor https")
        if (before, after) == ("https", "http"):
            raise DownloadError(
                "the server redirects from HTTPS to HTTP, where nobody vouches for what comes",
                hint="name an https URL that gives the file itself",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """What opens URLs, with the proxies of the environment and redirects on a leash."""
    return urllib.request.build_opener(Leashed, *handlers)
