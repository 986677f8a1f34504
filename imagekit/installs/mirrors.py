"""From which mirrors a Debian-like tree is installed, and with which keyring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import DownloadError, HostError, SpecError
from imagekit.host.apt_sources import host_archive, suite_is_gone, without_credentials
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock

# Suites whose security archive has another path (https://www.debian.org/security/).
OLD_SECURITY = {"jessie", "stretch", "buster"}
UNVERSIONED = {"sid", "unstable", "experimental"}
KEYRINGS = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}


@dataclass(frozen=True)
class Mirrors:
    """Sources in the order of sources.list: (URL, suite); the components; the keyring.

    Without sources the choice is mmdebstrap's or debootstrap's own.
    """

    sources: tuple[tuple[str, str], ...]
    components: tuple[str, ...]
    keyring: Path

    def lines(self, keyring: Path | None = None) -> list[str]:
        """sources.list(5) lines for the build; the URLs may hold credentials.

        ``keyring`` is named in each line, because apt would otherwise also trust whatever lies in
        the host's trusted.gpg.d.
        """
        option = f"[signed-by={keyring}] " if keyring else ""
        components = " ".join(self.components)
        return [f"deb {option}{url} {suite} {components}" for url, suite in self.sources]

    def public(self) -> list[str]:
        """The same without credentials, fit for the guest and for keys."""
        return [
            f"deb {without_credentials(url)} {suite} {' '.join(self.components)}"
            for url, suite in self.sources
        ]


def mirrors_for(file: SpecFile) -> Mirrors:
    """Mirrors of a spec: the spec's own, else the build host's, else what the tool chooses.

    Raises HostError when no keyring is there: signatures are always checked.
    """
    os_ = file.spec.os
    host = host_archive(os_.distribution)
    mirror = os_.mirror or host.mirror
    if mirror is None:
        return Mirrors((), tuple(os_.components), _keyring(file))
    # A private mirror rarely has a second archive beside it: no security source is invented then.
    security = os_.security_mirror or (None if os_.mirror else host.security)
    sources = [(mirror, os_.suite)]
    if os_.suite not in UNVERSIONED and not os_.mirror:
        sources.append((mirror, f"{os_.suite}-updates"))
    if security and os_.suite not in UNVERSIONED:
        old = os_.distribution == "debian" and os_.suite in OLD_SECURITY
        sources.append((security, f"{os_.suite}{'/updates' if old else '-security'}"))
    return Mirrors(tuple(sources), tuple(os_.components), _keyring(file))


def reached(file: SpecFile, lock: Lock | None) -> list[str]:
    """The URLs of mirrors and proxy by which programs of a build of ``file`` reach packages."""
    os_ = file.spec.os
    host = host_archive(os_.distribution)
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
