"""The Debian archive this build host itself uses, read from its apt sources (sources.list(5))."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from imagekit.errors import DownloadError
from imagekit.host import redirects

ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Source:
    """One apt source: base URI without the trailing slash, suites, components, keyring."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None


@dataclass(frozen=True)
class Archive:
    """Mirror URLs for a suite; None where the host names none."""

    mirror: str | None
    security: str | None
    keyring: Path | None


NO_ARCHIVE = Archive(None, None, None)
ARCHIVED = {"jessie", "stretch", "buster"}
"""Debian's suites that only archive.debian.org has (https://www.debian.org/distrib/archive); their
security archive has another path (https://www.debian.org/security/).
"""


def canonical_archive(distribution: str, suite: str) -> Archive:
    """The distribution's own names of the archive that has ``suite``.

    https://www.debian.org/mirror/list; sources.list of Ubuntu's own images.
    """
    if distribution == "ubuntu":
        return Archive(
            "http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu", None
        )
    server = f"http://{'archive' if suite in ARCHIVED else 'deb'}.debian.org"
    return Archive(f"{server}/debian", f"{server}/debian-security", None)


def host_archive(distribution: str, root: Path = Path("/")) -> Archive:
    """Mirror and security mirror of ``distribution`` as the host at ``root`` uses them.

    Only entries of the host's own release count, and of these only those that carry the
    distribution's archive (component main, signed by its archive keyring or by none in
    particular): third-party repositories with the same suite name are not mirrors.
    """
    release = os_release(root)
    if release.get("ID") != distribution:
        return NO_ARCHIVE
    codename = release.get("VERSION_CODENAME", "")
    found: dict[str, Source] = {}
    for source in read_sources(root):
        ours = source.signed_by is None or f"{distribution}-archive" in source.signed_by
        if not ours or "main" not in source.components:
            continue
        for suite in source.suites:
            found.setdefault(suite, source)
    main = found.get(codename) or found.get("stable")
    security = found.get(f"{codename}-security") or found.get(f"{codename}/updates")
    keyring = Path(main.signed_by) if main and main.signed_by else None
    return Archive(
        main.uri if main else None,
        security.uri if security else None,
        keyring if keyring and keyring.is_file() else None,
    )


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """os-release(5) of ``root`` as a mapping."""
    try:
        lines = (root / "etc/os-release").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def read_sources(root: Path = Path("/")) -> list[Source]:
    """All enabled binary sources below ``root``, in apt's order."""
    etc = root / "etc/apt"
    files = [etc / "sources.list"]
    if (etc / "sources.list.d").is_dir():
        files += sorted((etc / "sources.list.d").iterdir())
    sources: list[Source] = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if file.suffix == ".list":
            sources += _one_line(text)
        elif file.suffix == ".sources":
            sources += _deb822(text)
    return sources


def _one_line(text: str) -> list[Source]:
    sources = []
    for line in text.splitlines():
        match = re.fullmatch(
            r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^#\s]+)*)\s*(#.*)?", line
        )
        if match:
            options = dict(o.split("=", 1) for o in (match[1] or "").split() if "=" in o)
            sources.append(
                Source(
                    match[2].rstrip("/"),
                    (match[3].rstrip("/"),),
                    tuple(match[4].split()),
                    options.get("signed-by"),
                )
            )
    return sources


def _deb822(text: str) -> list[Source]:
    sources = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and last:
                fields[last] += "\n" + line.strip()
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        signed = fields.get("signed-by", "")
        sources += [
            Source(
                uri.rstrip("/"),
                tuple(s.rstrip("/") for s in fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                signed if signed.startswith("/") else None,
            )
            for uri in fields.get("uris", "").split()
        ]
    return sources


def suite_is_gone(url: str, suite: str) -> bool:
    """Whether the archive at ``url`` (http or https) answers that it has no ``suite`` (any more).

    False also where nobody answers: what is wrong then shows when packages are fetched.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    where = f"{url.rstrip('/')}/dists/{suite}/InRelease"
    try:
        request = urllib.request.Request(where, method="HEAD")  # noqa: S310 - checked above
        with redirects.opener().open(request, timeout=ANSWER_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (404, 410)
    except (OSError, ValueError, HTTPException, DownloadError):
        return False


def without_credentials(url: str) -> str:
    """``url`` without user name and password, fit for a file inside the guest."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
