"""User names and passwords in URLs (RFC 3986, userinfo), and texts without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# The part before the last @ of an authority. A user alone is taken for a token, but where it is the
# way to name an account (ssh://git@host).
_IN_URL = re.compile(
    r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?P<user>[^\s/?#"'<>\\]{0,1024})@""", re.ASCII
)
_TOKENS = re.compile(r"(?:.*\+)?(?:https?|ftps?)://", re.IGNORECASE)


def credentials_in(text: str) -> list[str]:
    """What stands before the ``@`` of every URL in ``text`` that holds a password or token."""
    return [match["user"] for match in _IN_URL.finditer(text) if _is_secret(match)]


def without_credentials_in(text: str) -> str:
    """``text`` whose URLs hold no passwords and no tokens."""
    return _IN_URL.sub(lambda match: match["scheme"] if _is_secret(match) else match[0], text)


def _is_secret(match: re.Match[str]) -> bool:
    user = match["user"]
    return bool(user) and (":" in user or bool(_TOKENS.fullmatch(match["scheme"])))


def public(value: object) -> object:
    """Plain JSON with all of its texts by :func:`without_credentials_in`."""
    if isinstance(value, str):
        return without_credentials_in(value)
    if isinstance(value, Mapping):
        return {name: public(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [public(item) for item in value]
    return value
