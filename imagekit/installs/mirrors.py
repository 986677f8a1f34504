"""From which mirrors a Debian-like tree is installed, and with which keyring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import DownloadError, HostError, SpecError
from imagekit.host.apt_sources import (
    ARCHIVED,
    Archive,
    canonical_archive,
    host_archive,
    suite_is_gone,
    without_credentials,
)
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock
from imagekit.spec.model import Os

UNVERSIONED = {"sid", "unstable", "experimental"}
KEYRINGS = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}


@dataclass(frozen=True)
class Mirrors:
    """Sources in the order of sources.list: (URL, suite); the components; the keyring.

    Packages are fetched from ``sources``; without any the choice is mmdebstrap's or debootstrap's
    own. ``guest`` is what the guest's own sources.list names, the same on every build host.
    """

    sources: tuple[tuple[str, str], ...]
    components: tuple[str, ...]
    keyring: Path
    guest: tuple[tuple[str, str], ...] = ()

    def lines(self, keyring: Path | None = None) -> list[str]:
        """sources.list(5) lines for the build; the URLs may hold credentials.

        ``keyring`` is named in each line, because apt would otherwise also trust whatever lies in
        the host's trusted.gpg.d.
        """
        option = f"[signed-by={keyring}] " if keyring else ""
        components = " ".join(self.components)
        return [f"deb {option}{url} {suite} {components}" for url, suite in self.sources]

    def public(self) -> list[str]:
        """The same without credentials, fit for messages and for the time of the build."""
        return self._named(self.sources)

    def guest_lines(self) -> list[str]:
        """sources.list(5) lines of the guest, without credentials: part of the image."""
        return self._named(self.guest)

    def _named(self, sources: tuple[tuple[str, str], ...]) -> list[str]:
        return [
            f"deb {without_credentials(url)} {suite} {' '.join(self.components)}"
            for url, suite in sources
        ]


def mirrors_for(file: SpecFile, host: Archive | None = None) -> Mirrors:
    """Mirrors of a spec: the spec's own, else the build host's, else what the tool chooses.

    ``host`` is what the build host's apt uses, read now without it. The guest gets the spec's own
    mirrors, else the distribution's: what this host uses may be out of the guest's reach, and
    images would depend on who built them. Raises HostError when no keyring is there: signatures
    are always checked.
    """
    os_ = file.spec.os
    host = host_archive(os_.distribution) if host is None else host
    own = canonical_archive(os_.distribution, os_.suite)
    guest = _sources(os_, own)
    fetched = _sources(os_, host) if os_.mirror or host.mirror else ()
    return Mirrors(fetched, tuple(os_.components), _keyring(file), guest)


def _sources(os_: Os, archive: Archive) -> tuple[tuple[str, str], ...]:
    """URL and suite of what the spec names, and for the rest of ``archive``."""
    main = os_.mirror or archive.mirror or ""
    # A private mirror rarely has a second archive beside it: no security source is invented then.
    second = os_.security_mirror or (None if os_.mirror else archive.security)
    sources = [(main, os_.suite)]
    if os_.suite not in UNVERSIONED and not os_.mirror:
        sources.append((main, f"{os_.suite}-updates"))
    if second and os_.suite not in UNVERSIONED:
        old = os_.distribution == "debian" and os_.suite in ARCHIVED
        sources.append((second, f"{os_.suite}{'/updates' if old else '-security'}"))
    return tuple(sources)


def reached(file: SpecFile, lock: Lock | None, host: Archive | None = None) -> list[str]:
    """The URLs of mirrors and proxy by which programs of a build of ``file`` reach packages.

    ``host`` is as for :func:`mirrors_for`.
    """
    os_ = file.spec.os
    host = host_archive(os_.distribution) if host is None else host
    mine = [os_.mirror, os_.security_mirror] if os_.mirror else [host.mirror, host.security]
    locked = [word for line in (lock.sources if lock else ()) for word in line.split()]
    found = [*mine, os_.security_mirror, os_.proxy, *(w for w in locked if "://" in w)]
    return [url for url in found if url]


def still_there(mirrors: Mirrors, suite: str) -> Mirrors:
    """``mirrors`` of a Debian ``suite`` without what they have dropped since it is old; asks them.

    Without its -updates or -security they serve the suite as it was last released. Raises
    DownloadError when they have dropped the suite itself.
    """
    left = tuple(source for source in mirrors.sources if not suite_is_gone(*source))
    if mirrors.sources and all(name != suite for _url, name in left):
        raise DownloadError(
            f"the mirror no longer has {suite}",
            where=without_credentials(mirrors.sources[0][0]),
            hint="apt's sources on this host must name a mirror that keeps old releases",
        )
    return replace(mirrors, sources=left)


def _keyring(file: SpecFile) -> Path:
    if file.spec.os.keyring:
        path = file.resolve(file.spec.os.keyring)
        if not path.is_file():
            raise SpecError(f"there is no keyring {path}", where=file.where("os", "keyring"))
        return path
    path = KEYRINGS[file.spec.os.distribution]
    if not path.is_file():
        raise HostError(
            f"the keyring {path} is not on this host",
            hint=f"apt-get install {file.spec.os.distribution}-archive-keyring, or name os.keyring",
        )
    return path
