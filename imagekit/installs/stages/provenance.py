"""Where installed packages came from: digests, pool paths and Release files, read from apt's lists.

Formats: Debian repository format (https://wiki.debian.org/DebianRepository/Format); apt names a
list after its URL with "/" as "_" (apt-pkg, URItoFileName).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from imagekit.errors import HostError

MAX_LIST_BYTES = 512 << 20
_RELEASE = re.compile(r"(?P<archive>.+_dists_(?P<suite>.+))_(In)?Release")
_PACKAGES = re.compile(r"(?P<archive>.+_dists_.+)_(?P<component>[^_]+)_binary-[^_]+_Packages")


@dataclass(frozen=True)
class Release:
    """A signed Release file: the suite as the sources name it, its time (seconds), its digest."""

    suite: str
    origin: str
    date: int
    sha256: str


def stanzas(data: bytes) -> Iterator[bytes]:
    """The paragraphs of a control file, unfolded no further."""
    yield from (part for part in data.split(b"\n\n") if part.strip())


def fields(stanza: bytes) -> dict[str, str]:
    """The fields of one paragraph; continuation lines are left out."""
    found: dict[str, str] = {}
    for line in stanza.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and not line[:1].isspace():
            found.setdefault(name, value.strip())
    return found


def provenance(lists: Path, installed: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What ``lists`` (a copy of /var/lib/apt/lists) say of the ``installed`` packages.

    Returns ``{"packages": [...], "releases": [...]}``, plain JSON. Raises HostError when a package
    is in no list: then it did not come from the archive.
    """
    releases = _releases(lists)
    wanted = {(p["name"], p["version"], p["architecture"]): p for p in installed}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    names = {key[0].encode() for key in wanted}
    for path in sorted(lists.iterdir()):
        match = _PACKAGES.fullmatch(path.name)
        if match is None or path.stat().st_size > MAX_LIST_BYTES:
            continue
        release = releases.get(match["archive"])
        for stanza in _of_names(path, names):
            row = fields(stanza)
            key = (row.get("Package", ""), row.get("Version", ""), row.get("Architecture", ""))
            if key in wanted and key not in found and row.get("SHA256"):
                found[key] = _package(row, release.suite if release else "")
    missing = sorted(key[0] for key in wanted if key not in found)
    if missing:
        raise HostError(
            f"apt's lists do not name {', '.join(missing[:5])}",
            hint="they were installed from elsewhere; a lock cannot pin them",
        )
    rows = [vars(r) for r in sorted(releases.values(), key=lambda r: r.suite)]
    return {"packages": [found[key] for key in sorted(found)], "releases": rows}


def _of_names(path: Path, names: set[bytes]) -> Iterable[bytes]:
    for stanza in stanzas(path.read_bytes()):
        first = stanza.lstrip().partition(b"\n")[0]
        if first.removeprefix(b"Package: ").strip() in names:
            yield stanza


def _package(row: Mapping[str, str], suite: str) -> dict[str, Any]:
    return {
        "name": row["Package"],
        "version": row["Version"],
        "architecture": row["Architecture"],
        "priority": row.get("Priority", "optional"),
        "suite": suite,
        "path": row.get("Filename", ""),
        "size": int(row.get("Size", "0")),
        "sha256": row["SHA256"],
    }


def _releases(lists: Path) -> dict[str, Release]:
    found: dict[str, Release] = {}
    for path in sorted(lists.iterdir()):
        match = _RELEASE.fullmatch(path.name)
        if match is None or path.stat().st_size > 4 << 20:
            continue
        data = path.read_bytes()
        row = fields(data)
        try:
            date = int(parsedate_to_datetime(row.get("Date", "")).timestamp())
        except (ValueError, TypeError):
            date = 0
        digest = hashlib.sha256(data).hexdigest()
        suite = match["suite"].replace("_", "/")
        found[match["archive"]] = Release(suite, row.get("Origin", ""), date, digest)
    return found
