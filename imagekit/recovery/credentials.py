"""No bundle carries the password of a mirror or a proxy: what tells them, and what looks for them.

In the spec they are left out; whatever else holds one is not packed.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ruamel.yaml import YAML

from imagekit.errors import SpecError
from imagekit.installs.mirrors import mirrors_for
from imagekit.spec.credentials import credentials_in, without_credentials_in
from imagekit.spec.load import SpecFile

SECTIONS = ("os", "install")
"""Parts of a spec that say where its packages come from; its digest knows no password in them."""

APT = ("apt.conf", "apt.conf.d/*", "auth.conf", "auth.conf.d/*", "sources.list", "sources.list.d/*")
"""Files below /etc/apt that may name passwords: apt.conf(5), apt_auth.conf(5), sources.list(5)."""

_VARIABLES = re.compile(r"(?i)(?:https?|ftp|all)_proxy")
_TEXTS = re.compile(r"(?:index\.json|manifest\.json|lock\.yaml|configs/.*)")
_UNREAD = re.compile(r"(?:packages|image)/.*")
"""Packages are as their archive has them; a disk is the guest's own."""

_SHORTEST = 6
"""Characters of a password that is looked for without its user; a shorter one is anywhere."""
_CHUNK = 1 << 20
_MAX_TEXT = 64 << 20


def spec_without_credentials(file: SpecFile) -> tuple[bytes, list[str]]:
    """The spec with its overrides, as it loads to the same again, and the fields that it was
    stripped of a password or token in; the proxy goes as a whole."""
    tree = deepcopy(file.tree)
    stripped: list[str] = []
    if isinstance(tree.get("os"), dict) and "proxy" in tree["os"]:
        if credentials_in(str(tree["os"]["proxy"])):
            stripped.append("os.proxy")
        del tree["os"]["proxy"]
    for section in SECTIONS:
        if section in tree:
            _strip(tree, section, section, stripped)
    text = _dumped(tree, "rt")
    plain = _dumped(_plain(tree), "safe")
    if len(credentials_in(text)) > len(credentials_in(plain)):
        stripped.append("comments")
        return plain.encode(), stripped
    return text.encode(), stripped


def _strip(holder: Any, key: Any, name: str, stripped: list[str]) -> None:
    value = holder[key]
    if isinstance(value, str):
        made = without_credentials_in(value)
        if made != value:
            holder[key] = made
            stripped.append(name)
    elif isinstance(value, dict):
        for inner in list(value):
            _strip(value, inner, f"{name}.{inner}", stripped)
    elif isinstance(value, list):
        for index in range(len(value)):
            _strip(value, index, f"{name}[{index}]", stripped)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _dumped(tree: Any, kind: str) -> str:
    stream = io.BytesIO()
    YAML(typ=kind, pure=True).dump(tree, stream)
    return stream.getvalue().decode()


def passwords_of(file: SpecFile, etc: Path = Path("/etc/apt")) -> frozenset[bytes]:
    """Passwords and tokens of mirrors and proxies that the spec, the host's apt or the environment
    name, in every form in which a file would hold them."""
    texts = [str(_plain(file.tree.get(section))) for section in SECTIONS]
    texts += [url for url, _suite in mirrors_for(file).sources]
    texts += [value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)]
    found: set[bytes] = set()
    for text in [*texts, *_apt_texts(etc)]:
        for user in credentials_in(text):
            found |= _forms(user)
        for name, password in re.findall(r"\blogin\s+(\S+)\s+password\s+(\S+)", text):
            found |= _forms(f"{name}:{password}")
    return frozenset(found)


def _apt_texts(etc: Path) -> Iterator[str]:
    for pattern in APT:
        for path in sorted(etc.glob(pattern)):
            with suppress(OSError), path.open("rb") as stream:
                yield stream.read(_CHUNK).decode("utf-8", "replace")


def _forms(user: str) -> set[bytes]:
    decoded = unquote(user)
    forms = {user, decoded} if len(user) >= _SHORTEST else {f"{user}@"}
    forms.add(base64.b64encode(decoded.encode()).decode())  # as in an HTTP header (RFC 7617)
    password = decoded.partition(":")[2]
    if len(password) >= _SHORTEST:
        forms |= {user.partition(":")[2], password, quote(password), quote(password, safe="")}
    return {form.encode() for form in forms}


def require_no_passwords(
    name: str, source: Path | bytes, passwords: frozenset[bytes], called: str = ""
) -> None:
    """Raise SpecError if the member ``name`` of a bundle, which the spec calls ``called``, holds
    one of ``passwords``; what imagekit wrote may hold none in a URL at all."""
    if _UNREAD.fullmatch(name) or (isinstance(source, Path) and not source.is_file()):
        return  # the container refuses what is no file
    what = f"{called} ({name})" if called else name
    hint = (
        "take it out and build again: apt_auth.conf(5) of the build host holds passwords of "
        "mirrors, os.proxy that of a proxy"
    )
    if any(_holds(source, passwords)):
        raise SpecError(
            "holds a password of a mirror or a proxy, which no bundle may carry",
            where=what,
            hint=hint,
        )
    if _TEXTS.fullmatch(name) and credentials_in(_text(source)):
        raise SpecError(
            "holds a password in a URL, which no bundle may carry", where=what, hint=hint
        )


def _holds(source: Path | bytes, passwords: frozenset[bytes]) -> Iterator[bool]:
    longest = max(map(len, passwords), default=0)
    if not passwords:
        return
    before = b""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        while block := stream.read(_CHUNK):
            data = before + block
            yield any(password in data for password in passwords)
            before = data[-longest + 1 :] if longest > 1 else b""


def _text(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return source.decode("utf-8", "replace")
    with source.open("rb") as stream:
        return stream.read(_MAX_TEXT).decode("utf-8", "replace")
